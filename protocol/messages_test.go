package protocol

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"
	"pgregory.net/rapid"
)

// newMessage returns a zero message for a type.
func newMessage(t Type) Message {
	switch t {
	case TypeHello:
		return &Hello{}
	case TypeChallenge:
		return &Challenge{}
	case TypeProof:
		return &Proof{}
	case TypeWelcome:
		return &Welcome{}
	case TypeJob:
		return &Job{}
	case TypeAccepted:
		return &Accepted{}
	case TypeProgress:
		return &Progress{}
	case TypeResult:
		return &Result{}
	case TypeResultAck:
		return &ResultAck{}
	case TypeCancel:
		return &Cancel{}
	case TypeCredit:
		return &Credit{}
	case TypeAttributes:
		return &AttributesUpdate{}
	case TypePing:
		return &Ping{}
	case TypePong:
		return &Pong{}
	case TypeGoAway:
		return &GoAway{}
	case TypeClose:
		return &Close{}
	}
	panic(t)
}

func allTypes() []Type {
	var out []Type
	for t := range 256 {
		if _, ok := typeNames[Type(t)]; ok {
			out = append(out, Type(t))
		}
	}
	return out
}

// pack encodes v with the msgpack library's own encoder, independent of ours.
func pack(t testing.TB, v any) []byte {
	t.Helper()
	var b bytes.Buffer
	e := msgpack.NewEncoder(&b)
	e.UseCompactInts(true)
	require.NoError(t, e.Encode(v))
	return b.Bytes()
}

func frameOf(t testing.TB, m Message) []byte {
	t.Helper()
	f, err := NewEncoder().Append(nil, m)
	require.NoError(t, err)
	return f
}

// text makes text of n bytes.
func text(n int) string { return strings.Repeat("x", n) }

// payloadOf makes a payload of exactly n bytes as encoded.
func payloadOf(n int) []byte {
	b := append([]byte{0xc6, byte((n - 5) >> 24), byte((n - 5) >> 16), byte((n - 5) >> 8), byte(n - 5)}, make([]byte, n-5)...)
	return b
}

// nested makes arrays around a nil, which is depth deep then.
func nested(depth int) []byte {
	return append(bytes.Repeat([]byte{0x91}, depth), 0xc0)
}

func genText(n int) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		s := rapid.String().Draw(t, "text")
		return clip(s, n)
	})
}

func genID(n int) *rapid.Generator[string] {
	return rapid.StringMatching(`[a-zA-Z0-9é本😀._:-]{1,31}`).Filter(func(s string) bool { return len(s) <= n })
}

func genBytes(low, high int) *rapid.Generator[[]byte] {
	return rapid.Custom(func(t *rapid.T) []byte {
		return append([]byte{}, rapid.SliceOfN(rapid.Byte(), low, min(high, 300)).Draw(t, "bytes")...)
	})
}

// genAny makes what msgpack can say, a few levels deep.
func genAny(depth int) *rapid.Generator[any] {
	scalars := []*rapid.Generator[any]{
		rapid.Just[any](nil), rapid.Bool().AsAny(), rapid.Int64().AsAny(), rapid.Uint64().AsAny(),
		rapid.Float64().AsAny(), rapid.String().AsAny(), genBytes(0, 40).AsAny(),
	}
	if depth == 0 {
		return rapid.OneOf(scalars...)
	}
	return rapid.OneOf(append(scalars,
		rapid.SliceOfN(genAny(depth-1), 0, 4).AsAny(),
		rapid.MapOfN(rapid.String(), genAny(depth-1), 0, 4).AsAny())...)
}

func genPayload() *rapid.Generator[[]byte] {
	return rapid.Custom(func(t *rapid.T) []byte {
		b, err := msgpack.Marshal(genAny(3).Draw(t, "payload"))
		if err != nil {
			t.Fatal(err)
		}
		return b
	})
}

func genTexts(count, n int) *rapid.Generator[[]string] {
	return rapid.Custom(func(t *rapid.T) []string {
		if l := rapid.SliceOfN(genText(n), 0, count).Draw(t, "texts"); len(l) > 0 {
			return l
		}
		return nil
	})
}

func genRefs() *rapid.Generator[[]Ref] {
	return rapid.Custom(func(t *rapid.T) []Ref {
		var out []Ref
		for range rapid.IntRange(0, 5).Draw(t, "refs") {
			out = append(out, Ref{JobID: genID(MaxJobIDBytes).Draw(t, "job_id"), Shard: rapid.Uint32().Draw(t, "shard"), Attempt: genAttempt.Draw(t, "attempt")})
		}
		return out
	})
}

var genAttempt = rapid.Uint32Range(0, MaxAttempts)

func genAttributes(t *rapid.T) Attributes {
	return Attributes{
		Country: rapid.SampledFrom([]string{"", "AU", "DEU"}).Draw(t, "country"), City: genText(MaxTextBytes).Draw(t, "city"),
		ASN: rapid.Uint32().Draw(t, "asn"), Platform: genText(MaxTextBytes).Draw(t, "platform"),
		Tags: genTexts(MaxTags, MaxTagBytes).Draw(t, "tags"), Kinds: genTexts(MaxKinds, MaxKindBytes).Draw(t, "kinds"),
	}
}

// genMessage makes a message of a type as decoding gives it.
func genMessage(t *rapid.T, typ Type) Message {
	id := func() []byte { return []byte(genID(64).Draw(t, "id")) }
	txt := func() string { return genText(MaxTextBytes).Draw(t, "text") }
	u32, u64, att := rapid.Uint32().Draw(t, "u32"), rapid.Uint64().Draw(t, "u64"), genAttempt.Draw(t, "attempt")
	switch typ {
	case TypeHello:
		return &Hello{Version: rapid.Uint32Range(0, MaxVersion).Draw(t, "v"), NodeID: genID(MaxNodeIDBytes).Draw(t, "node"),
			Credential: genBytes(0, MaxCredentialBytes).Draw(t, "cred"), Credit: rapid.Uint32Range(1, MaxCredit).Draw(t, "credit"),
			Agent: txt(), Attributes: genAttributes(t), Running: genRefs().Draw(t, "running"), Held: genRefs().Draw(t, "held"),
			LastIncarnation: rapid.Uint64().Draw(t, "last incarnation")}
	case TypeChallenge:
		return &Challenge{Method: "m" + genText(255).Draw(t, "m"), Nonce: genBytes(0, MaxNonceBytes).Draw(t, "nonce")}
	case TypeProof:
		return &Proof{Method: "m" + genText(255).Draw(t, "m"), Proof: genBytes(1, MaxProofBytes).Draw(t, "proof")}
	case TypeWelcome:
		return &Welcome{Version: rapid.Uint32Range(0, MaxVersion).Draw(t, "v"), Incarnation: u64, Member: txt(), HeartbeatMs: u32,
			AcceptAfterMs: rapid.Uint32().Draw(t, "accept"), MaxBodyBytes: u32 >> 8, ServerTimeMs: u64 / 3}
	case TypeJob:
		return &Job{JobID: id(), Shard: u32, Attempt: att, Kind: id(), TimeoutMs: rapid.Uint32Range(0, MaxTimeoutMs).Draw(t, "timeout"),
			Priority: rapid.Uint8Range(0, MaxPriority).Draw(t, "prio"), Args: genPayload().Draw(t, "args")}
	case TypeAccepted:
		return &Accepted{JobID: id(), Shard: u32, Attempt: att}
	case TypeProgress:
		return &Progress{JobID: id(), Shard: u32, Attempt: att, Data: genPayload().Draw(t, "data")}
	case TypeResult:
		return &Result{JobID: id(), Shard: u32, Attempt: att, Outcome: Outcome(rapid.Uint8Range(0, uint8(maxNodeOutcome)).Draw(t, "outcome")),
			DurationUs: u64, Error: append([]byte{}, genText(MaxErrorBytes).Draw(t, "error")...), Output: genPayload().Draw(t, "output")}
	case TypeResultAck:
		m := &ResultAck{}
		for range rapid.IntRange(0, 40).Draw(t, "acks") {
			m.Acks = append(m.Acks, Ack{JobID: id(), Attempt: genAttempt.Draw(t, "a")})
		}
		return m
	case TypeCancel:
		return &Cancel{JobID: id(), Attempt: att, Reason: txt()}
	case TypeCredit:
		return &Credit{Credit: rapid.Uint32Range(0, MaxCredit).Draw(t, "credit")}
	case TypeAttributes:
		return &AttributesUpdate{Attributes: genAttributes(t)}
	case TypePing:
		return &Ping{Nonce: u64}
	case TypePong:
		return &Pong{Nonce: u64}
	case TypeGoAway:
		return &GoAway{Reason: Reason(u32), JitterMs: u32, Addresses: genTexts(MaxAddresses, MaxAddressBytes).Draw(t, "addr"), Message: txt()}
	case TypeClose:
		return &Close{Reason: Reason(u32), Message: txt(), RetryAfterMs: u32, Addresses: genTexts(MaxAddresses, MaxAddressBytes).Draw(t, "addr")}
	}
	panic(typ)
}

func TestRoundTrip(t *testing.T) {
	for _, typ := range allTypes() {
		t.Run(typ.String(), func(t *testing.T) {
			e, d, fresh := NewEncoder(), NewDecoder(), newMessage(typ) // reused, as a session does
			rapid.Check(t, func(t *rapid.T) {
				m := genMessage(t, typ)
				prefix := genBytes(0, 5).Draw(t, "prefix")
				out, err := e.Append(bytes.Clone(prefix), m)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.HasPrefix(out, prefix) {
					t.Fatal("what was there before is gone")
				}
				frame := out[len(prefix):]
				got, body, size, err := NextFrame(frame, MaxBodyBytes)
				if err != nil || got != typ || size != len(frame) {
					t.Fatal(got, size, err)
				}
				for _, into := range []Message{newMessage(typ), fresh} {
					if err := d.Decode(body, into); err != nil {
						t.Fatal(err)
					}
					if a, ok := into.(*ResultAck); ok && len(a.Acks) == 0 {
						a.Acks = nil
					}
					if !reflect.DeepEqual(m, into) {
						t.Fatalf("encoded %+v\ndecoded %+v", m, into)
					}
				}
			})
		})
	}
}

// Every field of the largest HELLO is at its limit, and the body is within its own.
func TestLargestHello(t *testing.T) {
	h := largestHello()
	frame := frameOf(t, h)
	require.LessOrEqual(t, len(frame)-HeaderBytes, MaxHelloBodyBytes)
	require.Greater(t, len(frame)-HeaderBytes, MaxHelloBodyBytes*9/10, "the limit is needlessly high")
	var back Hello
	require.NoError(t, NewDecoder().Decode(frame[HeaderBytes:], &back))
	require.Equal(t, *h, back)
}

func largestHello() *Hello {
	h := &Hello{Version: MaxVersion, NodeID: text(MaxNodeIDBytes), Credential: []byte(text(MaxCredentialBytes)), Credit: MaxCredit,
		Agent: text(MaxTextBytes), Attributes: largestAttributes(), LastIncarnation: 1<<64 - 1}
	for range MaxResume {
		h.Running = append(h.Running, Ref{text(MaxJobIDBytes), 1<<32 - 1, MaxAttempts})
	}
	h.Held = h.Running
	return h
}

func largestAttributes() Attributes {
	a := Attributes{Country: "AUS", City: text(MaxTextBytes), ASN: 1<<32 - 1, Platform: text(MaxTextBytes)}
	for range MaxTags {
		a.Tags = append(a.Tags, text(MaxTagBytes))
	}
	for range MaxKinds {
		a.Kinds = append(a.Kinds, text(MaxKindBytes))
	}
	return a
}

// The largest of the others fit a frame.
func TestLargestFrames(t *testing.T) {
	payload, id := payloadOf(MaxPayloadBytes), []byte(text(MaxJobIDBytes))
	acks := make([]Ack, MaxAcks)
	for i := range acks {
		acks[i] = Ack{id, MaxAttempts}
	}
	addresses := make([]string, MaxAddresses)
	for i := range addresses {
		addresses[i] = text(MaxAddressBytes)
	}
	for _, m := range []Message{
		&Job{JobID: id, Shard: 1<<32 - 1, Attempt: MaxAttempts, Kind: []byte(text(MaxKindBytes)), TimeoutMs: MaxTimeoutMs, Priority: MaxPriority, Args: payload},
		&Progress{JobID: id, Shard: 1<<32 - 1, Attempt: MaxAttempts, Data: payload},
		&Result{JobID: id, Shard: 1<<32 - 1, Attempt: MaxAttempts, Outcome: maxNodeOutcome, DurationUs: 1<<64 - 1, Error: []byte(text(MaxErrorBytes)), Output: payload},
		&ResultAck{Acks: acks},
		&GoAway{Reason: 65535, JitterMs: 1<<32 - 1, Addresses: addresses, Message: text(MaxTextBytes)},
		&Proof{Method: text(MaxTextBytes), Proof: []byte(text(MaxProofBytes))},
	} {
		frame := frameOf(t, m)
		back := newMessage(m.Type())
		require.NoError(t, NewDecoder().Decode(frame[HeaderBytes:], back))
		require.Equal(t, m, back)
	}
}
