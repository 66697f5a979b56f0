package protocol

// Credit is CREDIT: from now on the node runs this many jobs at once.
// On the wire: [credit].
type Credit struct{ Credit uint32 }

// Type implements [Message].
func (*Credit) Type() Type { return TypeCredit }

func (m *Credit) encode(e *Encoder) {
	e.array(1)
	e.uint("credit", uint64(m.Credit), MaxCredit)
}

func (m *Credit) decode(d *Decoder) { m.Credit = uint32(d.uint("credit", true, MaxCredit)) }

// Ping is PING, answered at once by PONG with the same nonce.
// On the wire: [nonce].
type Ping struct{ Nonce uint64 }

// Type implements [Message].
func (*Ping) Type() Type { return TypePing }

func (m *Ping) encode(e *Encoder) {
	e.array(1)
	e.uint("nonce", m.Nonce, 1<<64-1)
}

func (m *Ping) decode(d *Decoder) { m.Nonce = d.uint("nonce", false, 1<<64-1) }

// Pong is PONG.
// On the wire: [nonce].
type Pong struct{ Nonce uint64 }

// Type implements [Message].
func (*Pong) Type() Type { return TypePong }

func (m *Pong) encode(e *Encoder) {
	e.array(1)
	e.uint("nonce", m.Nonce, 1<<64-1)
}

func (m *Pong) decode(d *Decoder) { m.Nonce = d.uint("nonce", false, 1<<64-1) }

// GoAway is GOAWAY: finish what runs if it is quick, then reconnect.
// On the wire: [reason, jitter_ms, addresses, message].
type GoAway struct {
	Reason    Reason
	JitterMs  uint32   // the node waits a random time up to this before it leaves
	Addresses []string // host:port to try first; empty: the ones it knows
	Message   string
}

// Type implements [Message].
func (*GoAway) Type() Type { return TypeGoAway }

func (m *GoAway) encode(e *Encoder) {
	e.array(4)
	e.uint("reason", uint64(m.Reason), 1<<16-1)
	e.uint("jitter_ms", uint64(m.JitterMs), 1<<32-1)
	e.strs("addresses", m.Addresses, MaxAddresses, MaxAddressBytes)
	e.note(m.Message, MaxTextBytes)
}

func (m *GoAway) decode(d *Decoder) {
	m.Reason = Reason(d.uint("reason", true, 1<<16-1))
	m.JitterMs = uint32(d.uint("jitter_ms", false, 1<<32-1))
	m.Addresses = d.strs("addresses", MaxAddresses, MaxAddressBytes)
	m.Message = d.str("message", false, MaxTextBytes)
}

// Close is CLOSE, the last frame before the sender closes the connection.
// On the wire: [reason, message, retry_after_ms, addresses].
type Close struct {
	Reason       Reason
	Message      string   // what was wrong, for a person
	RetryAfterMs uint32   // when not 0 and the reason allows a return: not before this
	Addresses    []string // host:port to try first, when the reason allows a return
}

// Type implements [Message].
func (*Close) Type() Type { return TypeClose }

func (m *Close) encode(e *Encoder) {
	e.array(4)
	e.uint("reason", uint64(m.Reason), 1<<16-1)
	e.note(m.Message, MaxTextBytes)
	e.uint("retry_after_ms", uint64(m.RetryAfterMs), 1<<32-1)
	e.strs("addresses", m.Addresses, MaxAddresses, MaxAddressBytes)
}

func (m *Close) decode(d *Decoder) {
	m.Reason = Reason(d.uint("reason", true, 1<<16-1))
	m.Message = d.str("message", false, MaxTextBytes)
	m.RetryAfterMs = uint32(d.uint("retry_after_ms", false, 1<<32-1))
	m.Addresses = d.strs("addresses", MaxAddresses, MaxAddressBytes)
}
