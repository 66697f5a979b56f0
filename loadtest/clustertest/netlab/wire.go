//go:build linux

package netlab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Rule says what happens to packets. Fields that are zero fit any packet.
type Rule struct {
	From, To []netip.Addr  // of IPv4 packets
	Port     uint16        // of TCP or UDP, of either end
	Loss     float64       // share of the packets that are dropped: 0 to 1
	Delay    time.Duration // of those that are not
}

// Wire carries the frames between one host and the bridge, and impairs them.
type Wire struct {
	lab   *Lab
	host  string
	rules []Rule
	near  *os.File // the bridge's end of the host's link
	far   *os.File // a TAP device in the bridge
	wg    sync.WaitGroup

	passed, dropped atomic.Uint64
}

// maxFrame is longer than a frame of the links, whose MTU is 1500.
const maxFrame = 2048

// tap is the name of the bridge's port while there is a wire.
func tap(host string) string { return "t-" + host }

// Impair puts a wire between a host and the bridge. The first rule that fits a packet
// decides; one that no rule fits passes. Connections that are open go on.
func (l *Lab) Impair(host string, rules ...Rule) (*Wire, error) {
	w := &Wire{lab: l, host: host, rules: rules}
	// The kernel leaves segmentation and checksums to devices; a frame that is read from
	// a packet socket would come without them.
	if err := l.Within(host, func() error { return offload("eth0", false) }); err != nil {
		return nil, err
	}
	if err := l.Within(bridgeHost, w.open); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	ns := l.namespace(bridgeHost)
	if err := ip([][]string{
		{"-n", ns, "link", "set", tap(host), "master", bridge, "up"},
		{"-n", ns, "link", "set", port(host), "nomaster"},
	}); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	w.wg.Go(func() { w.carry(w.far, w.near) })
	w.wg.Go(func() { w.carry(w.near, w.far) })
	return w, nil
}

// Counts are the packets that passed and those that were dropped by a rule.
func (w *Wire) Counts() (passed, dropped uint64) { return w.passed.Load(), w.dropped.Load() }

// Close takes the wire away: the host is on the bridge again. Packets that are being
// delayed are lost.
func (w *Wire) Close() error {
	err := ip([][]string{{"-n", w.lab.namespace(bridgeHost), "link", "set", port(w.host), "master", bridge, "up"}})
	for _, f := range []*os.File{w.near, w.far} {
		if f != nil {
			f.Close()
		}
	}
	w.wg.Wait()
	return errors.Join(err, w.lab.Within(w.host, func() error { return offload("eth0", true) }))
}

// open makes both ends, in the bridge's namespace.
func (w *Wire) open() error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open /dev/net/tun", err)
	}
	req, err := unix.NewIfreq(tap(w.host))
	if err == nil {
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		_ = unix.Close(fd)
		return os.NewSyscallError("TUNSETIFF", err)
	}
	w.far = os.NewFile(uintptr(fd), tap(w.host)) // pollable, as it does not block
	w.near, err = packetSocket(port(w.host))
	return err
}

// packetSocket reads and writes the frames of a device.
func packetSocket(device string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("packet socket", err)
	}
	index, err := deviceIndex(fd, device)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
	}
	if err == nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
		all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index})
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("packet socket on %s: %w", device, err)
	}
	return os.NewFile(uintptr(fd), device), nil
}

// deviceIndex is of the thread's namespace, unlike the net package's answer it is
// asked through a socket that is known to be there.
func deviceIndex(fd int, device string) (int, error) {
	req, err := unix.NewIfreq(device)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req); err != nil {
		return 0, os.NewSyscallError("SIOCGIFINDEX", err)
	}
	return int(req.Uint32()), nil
}

// late is a frame on its way.
type late struct {
	due   time.Time
	frame []byte
}

// maxLate is how many frames can be on their way in one direction; more are dropped, as
// by any router.
const maxLate = 16_384

// carry takes frames from one end to the other until they are closed.
func (w *Wire) carry(to, from *os.File) {
	queue := make(chan late, maxLate)
	defer close(queue)
	w.wg.Go(func() {
		for l := range queue {
			time.Sleep(time.Until(l.due))
			w.write(to, l.frame)
		}
	})
	buf := make([]byte, maxFrame)
	for {
		n, err := from.Read(buf)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil || n == 0 {
			continue // the device is down for a moment
		}
		r := w.rule(buf[:n])
		switch {
		case r == nil:
			w.write(to, buf[:n])
		case r.Loss > 0 && rand.Float64() < r.Loss:
			w.dropped.Add(1)
		case r.Delay == 0:
			w.write(to, buf[:n])
		default:
			select {
			case queue <- late{time.Now().Add(r.Delay), append([]byte(nil), buf[:n]...)}:
			default:
				w.dropped.Add(1)
			}
		}
	}
}

// write may lose a frame, as any network may.
func (w *Wire) write(to *os.File, frame []byte) {
	if _, err := to.Write(frame); err == nil {
		w.passed.Add(1)
	}
}

// rule returns the first that fits a frame, or nil.
func (w *Wire) rule(frame []byte) *Rule {
	p, ok := parse(frame)
	for i := range w.rules {
		if r := &w.rules[i]; r.fits(&p, ok) {
			return r
		}
	}
	return nil
}
