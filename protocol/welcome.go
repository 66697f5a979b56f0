package protocol

// Welcome is WELCOME: the session is open.
// On the wire: [version, incarnation, member, heartbeat_ms, accept_after_ms, max_body_bytes, server_time_ms].
type Welcome struct {
	Version       uint32 // the version that both sides speak from here on
	Incarnation   uint64 // numbers the sessions of this node id; larger is newer
	Member        string // the member's name, for logs
	HeartbeatMs   uint32 // the node sends something at least this often
	AcceptAfterMs uint32 // a job without its result this long after arrival is ACCEPTED
	MaxBodyBytes  uint32 // the largest body that the member takes
	ServerTimeMs  uint64 // Unix time, for logs; nothing depends on it
}

// Type implements [Message].
func (*Welcome) Type() Type { return TypeWelcome }

func (m *Welcome) encode(e *Encoder) {
	e.array(7)
	e.uint("version", uint64(m.Version), MaxVersion)
	e.uint("incarnation", m.Incarnation, 1<<64-1)
	e.str("member", m.Member, MaxTextBytes)
	e.uint("heartbeat_ms", uint64(m.HeartbeatMs), 1<<32-1)
	e.uint("accept_after_ms", uint64(m.AcceptAfterMs), 1<<32-1)
	e.uint("max_body_bytes", uint64(m.MaxBodyBytes), 1<<24-1)
	e.uint("server_time_ms", m.ServerTimeMs, 1<<64-1)
}

func (m *Welcome) decode(d *Decoder) {
	m.Version = uint32(d.uint("version", true, MaxVersion))
	m.Incarnation = d.uint("incarnation", true, 1<<64-1)
	m.Member = d.str("member", false, MaxTextBytes)
	m.HeartbeatMs = uint32(d.uint("heartbeat_ms", true, 1<<32-1))
	m.AcceptAfterMs = uint32(d.uint("accept_after_ms", false, 1<<32-1))
	m.MaxBodyBytes = uint32(d.uint("max_body_bytes", false, 1<<24-1))
	m.ServerTimeMs = d.uint("server_time_ms", false, 1<<64-1)
}
