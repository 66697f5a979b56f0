//go:build linux

package fleet

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/roost-server/roost/protocol"
)

// Backoff after a failed or refused connection: exponential with jitter over the upper
// half, so that nodes that fell together do not come back together.
const (
	backoffMinMs = 500
	backoffMaxMs = 30_000
	nowJitterMs  = 1000 // for reasons that ask the node to come back at once
)

// dial begins connections while the number of opening nodes allows it: first those
// whose time has come, then those never dialled.
func (f *Fleet) dial() {
	for range dialBatch {
		// A node that leaves after GOAWAY counts as opening as well: a drain is paced too.
		if f.opening >= f.cfg.InFlight {
			return
		}
		switch {
		case len(f.later) > 0 && f.later[0].dueMs <= f.nowMs:
			t := f.later.pop()
			n := &f.nodes[t.idx]
			if n.gen != t.gen {
				continue
			}
			if n.state == stateOpen {
				f.say(n, int(t.idx), &protocol.Close{Reason: protocol.ReasonBye})
				if n.gen != t.gen {
					continue // the write failed and the node waits already
				}
				f.drop(n)
			}
			f.connect(n, int(t.idx))
		case f.mayRamp():
			i := f.fresh
			f.fresh++
			f.connect(&f.nodes[i], i)
		default:
			return
		}
	}
}

// connect begins one connection of node i.
func (f *Fleet) connect(n *node, i int) {
	n.gen++
	n.state = stateNew
	f.st.Dials++
	to := f.addrs[n.addr]
	fd, err := unix.Socket(family(to), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		f.dialFailed(n, i, "socket", err)
		return
	}
	n.fd = int32(fd)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	if src, ok := f.cfg.source(f.cfg.First + i); ok {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
		if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(src, 0))); err != nil {
			f.dialFailed(n, i, "bind to "+src.String(), err)
			return
		}
	}
	err = unix.Connect(fd, sockaddr(to))
	if err != nil && err != unix.EINPROGRESS {
		f.dialFailed(n, i, "connect to "+to.String(), err)
		return
	}
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: n.fd, Pad: int32(i)}
	if err != nil {
		ev.Events = unix.EPOLLOUT
	}
	if e := unix.EpollCtl(f.ep, unix.EPOLL_CTL_ADD, fd, &ev); e != nil {
		f.dialFailed(n, i, "epoll_ctl", e)
		return
	}
	f.opening++
	f.openQueue = append(f.openQueue, timer{f.nowMs + f.cfg.OpenTimeout.Milliseconds(), int32(i), n.gen})
	n.state = stateConnecting
	if err == nil {
		f.hello(n, i)
	}
}

// onConnected ends a connect that was under way.
func (f *Fleet) onConnected(n *node, i int) {
	code, err := unix.GetsockoptInt(int(n.fd), unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	if err == nil {
		ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: n.fd, Pad: int32(i)}
		err = unix.EpollCtl(f.ep, unix.EPOLL_CTL_MOD, int(n.fd), &ev)
	}
	if err != nil {
		f.dialFailed(n, i, "connect to "+f.addrs[n.addr].String(), err)
		return
	}
	f.hello(n, i)
}

// elsewhere is another address than the node's, if there is one: any, so that the nodes of a
// server that is gone spread.
func (f *Fleet) elsewhere(n *node) uint16 {
	if len(f.addrs) == 1 {
		return n.addr
	}
	return uint16((int(n.addr) + 1 + f.rng.IntN(len(f.addrs)-1)) % len(f.addrs))
}

// hello sends the preface and HELLO.
func (f *Fleet) hello(n *node, i int) {
	n.state = stateHello
	m := protocol.Hello{
		Version: protocol.Version, NodeID: f.cfg.ID(f.cfg.First + i), Credential: f.cfg.Credential,
		Credit: f.cfg.Credit, Agent: "roost-loadtest", Attributes: profile(f.cfg.Seed, f.cfg.First+i),
		LastIncarnation: n.incarnation,
	}
	out, err := f.enc.Append(append(f.out[:0], protocol.Preface...), &m)
	f.out = out
	if err != nil { // the configuration was validated: a limit changed under us
		f.fatal(n, "HELLO: "+err.Error())
		return
	}
	f.write(n, i, out)
}

func (f *Fleet) dialFailed(n *node, i int, what string, err error) {
	f.st.DialErrors++
	f.st.LastError = explain(what, err)
	f.retry(n, i, protocol.ReconnectBackoff, 0)
}

// explain adds what to do to the errors that a user of the simulator can cure.
func explain(what string, err error) string {
	text := fmt.Sprintf("%s: %v", what, err)
	switch {
	case errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE):
		return text + "; raise the limit of open files (ulimit -n) or use fewer nodes"
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return text + "; no free port: give several --server or --source addresses, or widen net.ipv4.ip_local_port_range"
	}
	return text
}

// retry ends the node's connection, if it has one, and plans the next as policy says,
// not before retryAfterMs.
func (f *Fleet) retry(n *node, i int, policy protocol.Policy, retryAfterMs int64) {
	f.drop(n)
	var delay int64
	switch policy {
	case protocol.ReconnectNever:
		n.state = stateDead
		f.st.Dead++
		return
	case protocol.ReconnectNow:
		delay = f.rng.Int64N(nowJitterMs)
	default:
		limit := min(int64(backoffMaxMs), int64(backoffMinMs)<<min(n.tries, 10))
		delay = limit/2 + f.rng.Int64N(limit/2)
		n.tries = min(n.tries+1, 100)
		n.addr = f.elsewhere(n)
	}
	if retryAfterMs > 0 {
		delay = max(delay, retryAfterMs+f.rng.Int64N(retryAfterMs/4+1))
	}
	n.state = stateWaiting
	f.later.push(timer{f.nowMs + delay, int32(i), n.gen})
}

// fatal gives a node up for good, for a reason that a retry would not cure.
func (f *Fleet) fatal(n *node, why string) {
	f.st.LastError = why
	f.drop(n)
	n.state = stateDead
	f.st.Dead++
}

// drop closes the node's socket and forgets what belonged to the connection. The
// caller sets the next state.
func (f *Fleet) drop(n *node) {
	switch n.state {
	case stateConnecting, stateHello:
		f.opening--
	case stateOpen:
		f.st.Connected--
		f.st.Forgotten += uint64(n.unacked)
		f.st.Unacked -= int64(n.unacked)
	}
	n.unacked, n.in, n.out, n.deaf = 0, nil, nil, false
	n.gen++ // what was planned for this connection is void
	if n.fd >= 0 {
		_ = unix.Close(int(n.fd)) // leaves the epoll set with it
		n.fd = -1
	}
}

// expireOpening gives up connections that got no WELCOME in time. They lie in the
// queue in the order of their deadlines.
func (f *Fleet) expireOpening() {
	k := 0
	for k < len(f.openQueue) {
		t := f.openQueue[k]
		n := &f.nodes[t.idx]
		if n.gen == t.gen && (n.state == stateConnecting || n.state == stateHello) {
			if t.dueMs > f.nowMs {
				break
			}
			f.st.OpenTimeouts++
			f.st.LastError = fmt.Sprintf("no WELCOME from %v within %v", f.addrs[n.addr], f.cfg.OpenTimeout)
			f.retry(n, int(t.idx), protocol.ReconnectBackoff, 0)
		}
		k++
	}
	if k == len(f.openQueue) {
		f.openQueue = f.openQueue[:0]
	} else if k > 0 && k >= len(f.openQueue)/2 {
		f.openQueue = f.openQueue[:copy(f.openQueue, f.openQueue[k:])]
	}
}

// learn returns the index of a random one of the addresses that GOAWAY named, or -1
// when none of them is an IP address with a port: names are not looked up on the loop.
func (f *Fleet) learn(list []string) int {
	if len(list) == 0 {
		return -1
	}
	a, err := netip.ParseAddrPort(list[f.rng.IntN(len(list))])
	if err != nil {
		return -1
	}
	for i := range f.addrs {
		if f.addrs[i] == a {
			return i
		}
	}
	if len(f.addrs) == maxAddrs {
		return -1
	}
	f.addrs = append(f.addrs, a)
	return len(f.addrs) - 1
}

func family(a netip.AddrPort) int {
	if a.Addr().Unmap().Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	ip := a.Addr().Unmap()
	if ip.Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: ip.As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: ip.As16()}
}

func sysError(call string, err error) string { return os.NewSyscallError(call, err).Error() }
