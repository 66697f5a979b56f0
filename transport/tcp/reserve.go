package tcp

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// reserved is a port that this process holds until gnet listens on it.
type reserved struct {
	fd   int
	addr *net.TCPAddr
	url  string // for gnet
}

// reserve binds a socket to listen, without listening on it: connections wait for
// gnet's sockets. It does two things that those cannot: as it is without
// SO_REUSEPORT, binding fails when any other process listens there; and it settles
// which port 0 means, since each loop binds anew. gnet may bind beside it because
// both have SO_REUSEADDR and this one does not listen.
func reserve(listen string) (*reserved, error) {
	addr, err := net.ResolveTCPAddr("tcp", listen)
	if err != nil {
		return nil, fmt.Errorf("tcp: listen is %q: %w", listen, err)
	}
	r, err := bind(addr)
	if addr.IP == nil && errors.Is(err, unix.EAFNOSUPPORT) { // a host without IPv6
		addr.IP = net.IPv4zero
		r, err = bind(addr)
	}
	if err != nil {
		return nil, fmt.Errorf("tcp: listening on %s: %w", listen, err)
	}
	return r, nil
}

func bind(addr *net.TCPAddr) (_ *reserved, err error) {
	family, sa, err := sockaddr(addr)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return nil, os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Bind(fd, sa); err != nil {
		return nil, os.NewSyscallError("bind", err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return nil, os.NewSyscallError("getsockname", err)
	}
	bound := *addr
	switch name := name.(type) {
	case *unix.SockaddrInet4:
		bound.Port = name.Port
	case *unix.SockaddrInet6:
		bound.Port = name.Port
	}
	host := ""
	if bound.IP != nil {
		host = bound.IP.String()
		if bound.Zone != "" {
			host += "%" + bound.Zone
		}
	}
	return &reserved{fd: fd, addr: &bound, url: "tcp://" + net.JoinHostPort(host, strconv.Itoa(bound.Port))}, nil
}

func sockaddr(addr *net.TCPAddr) (family int, sa unix.Sockaddr, err error) {
	if ip := addr.IP.To4(); ip != nil {
		return unix.AF_INET, &unix.SockaddrInet4{Port: addr.Port, Addr: [4]byte(ip)}, nil
	}
	six := &unix.SockaddrInet6{Port: addr.Port}
	if addr.IP != nil {
		six.Addr = [16]byte(addr.IP.To16())
	}
	if addr.Zone != "" {
		itf, err := net.InterfaceByName(addr.Zone)
		if err != nil {
			return 0, nil, fmt.Errorf("zone %q: %w", addr.Zone, err)
		}
		six.ZoneId = uint32(itf.Index)
	}
	return unix.AF_INET6, six, nil
}

func (r *reserved) release() { _ = unix.Close(r.fd) }
