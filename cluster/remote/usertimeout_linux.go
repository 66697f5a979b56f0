package remote

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// setUserTimeout ends a connection when what was sent is not acknowledged for so long (RFC 5482), as
// when the peer's machine lost power; the system alone would try for a quarter of an hour.
func setUserTimeout(conn net.Conn, d time.Duration) error {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
	})
	if err != nil {
		return err
	}
	return set
}
