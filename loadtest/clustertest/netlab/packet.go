//go:build linux

package netlab

import (
	"encoding/binary"
	"net/netip"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// packet is what rules ask of an IPv4 packet.
type packet struct {
	from, to netip.Addr
	ports    [2]uint16 // zero for what is neither TCP nor UDP
}

const (
	ethernetBytes = 14
	ipv4Bytes     = 20
)

// parse reads the heads of a frame; false when it is no IPv4, such as ARP.
func parse(frame []byte) (p packet, ok bool) {
	if len(frame) < ethernetBytes+ipv4Bytes || binary.BigEndian.Uint16(frame[12:]) != unix.ETH_P_IP {
		return p, false
	}
	head := frame[ethernetBytes:]
	p.from, p.to = netip.AddrFrom4([4]byte(head[12:16])), netip.AddrFrom4([4]byte(head[16:20]))
	body := int(head[0]&15) * 4
	first := binary.BigEndian.Uint16(head[6:])&0x1fff == 0 // else a later fragment, without ports
	if proto := head[9]; first && len(head) >= body+4 && (proto == unix.IPPROTO_TCP || proto == unix.IPPROTO_UDP) {
		p.ports = [2]uint16{binary.BigEndian.Uint16(head[body:]), binary.BigEndian.Uint16(head[body+2:])}
	}
	return p, true
}

// fits tells whether the rule is for a packet; one that is no IPv4 fits rules for all.
func (r *Rule) fits(p *packet, ipv4 bool) bool {
	if !ipv4 {
		return len(r.From) == 0 && len(r.To) == 0 && r.Port == 0
	}
	return (len(r.From) == 0 || slices.Contains(r.From, p.from)) &&
		(len(r.To) == 0 || slices.Contains(r.To, p.to)) &&
		(r.Port == 0 || r.Port == p.ports[0] || r.Port == p.ports[1])
}

// ethtoolStxcsum is ETHTOOL_STXCSUM of linux/ethtool.h: whether a device computes
// checksums of what it sends. Without them it gets no segments to cut either.
const ethtoolStxcsum = 0x17

type ethtoolValue struct{ cmd, data uint32 }

// offload turns a device's checksums on or off.
func offload(device string, on bool) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd) //nolint:errcheck // it was never used for data
	v := ethtoolValue{cmd: ethtoolStxcsum}
	if on {
		v.data = 1
	}
	var req struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(req.name[:unix.IFNAMSIZ-1], device)
	req.data = unsafe.Pointer(&v)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); e != 0 {
		return os.NewSyscallError("ETHTOOL_STXCSUM of "+device, e)
	}
	return nil
}
