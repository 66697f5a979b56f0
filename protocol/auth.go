package protocol

// Challenge is CHALLENGE: the member asks the node to prove who it is.
// On the wire: [method, nonce].
type Challenge struct {
	Method string // names what PROOF has to be, such as "hmac-sha256"
	Nonce  []byte // to be used in the proof; aliases the body after decoding
}

// Type implements [Message].
func (*Challenge) Type() Type { return TypeChallenge }

func (m *Challenge) encode(e *Encoder) {
	e.array(2)
	e.str("method", m.Method, MaxTextBytes)
	e.bin("nonce", m.Nonce, MaxNonceBytes)
}

func (m *Challenge) decode(d *Decoder) {
	m.Method = d.str("method", true, MaxTextBytes)
	m.Nonce = d.text("nonce", false, MaxNonceBytes)
}

// Proof is PROOF, the answer to [Challenge].
// On the wire: [method, proof].
type Proof struct {
	Method string // repeats the challenge's
	Proof  []byte // aliases the body after decoding
}

// Type implements [Message].
func (*Proof) Type() Type { return TypeProof }

func (m *Proof) encode(e *Encoder) {
	e.array(2)
	e.str("method", m.Method, MaxTextBytes)
	e.bin("proof", m.Proof, MaxProofBytes)
}

func (m *Proof) decode(d *Decoder) {
	m.Method = d.str("method", true, MaxTextBytes)
	m.Proof = d.text("proof", true, MaxProofBytes)
}
