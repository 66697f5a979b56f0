package remote

import (
	"bytes"
	"errors"
	"fmt"

	protoremote "github.com/asynkron/protoactor-go/remote"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// What a batch of bodies says of itself, as protoactor names it.
const (
	targetName = "link"
	typeName   = "google.protobuf.BytesValue"
)

const (
	// maxBatchBodies is how many bodies one message may hold; a batch this long pays for its
	// message many times over.
	maxBatchBodies = 1024
	// batchBytes is how much is gathered into one message before it is sent; a longer body goes alone.
	batchBytes = 256 << 10
	// envelopeBytes is more than the wire adds to each body, and batchOverhead more than to a batch.
	envelopeBytes = 24
	batchOverhead = 256
	// maxMessageBytes is what a message may hold at most: one longest body, or a full batch.
	maxMessageBytes = MaxBodyBytes + maxBatchBodies*envelopeBytes + batchOverhead
	// maxControlBytes is what all other messages may hold: addresses and ids.
	maxControlBytes = 16 << 10
	// copyBelow is the length from which on bodies are written from where they are.
	copyBelow = 8 << 10
)

// Field numbers of protoactor's remote.proto.
const (
	fieldBatch      = 1 // in RemoteMessage
	fieldConnect    = 2
	fieldConnected  = 3
	fieldDisconnect = 4

	fieldTypeNames = 1 // in MessageBatch
	fieldTargets   = 2
	fieldEnvelopes = 3
	fieldSenders   = 4

	fieldTypeID     = 1 // in MessageEnvelope
	fieldData       = 2
	fieldTarget     = 3
	fieldSender     = 4
	fieldSerializer = 5
	fieldHeader     = 6

	fieldValue = 1 // in BytesValue
)

// batch is a message of bodies, to be sent.
type batch struct{ bodies [][]byte }

// incoming is one message that came: bodies, or one of the others.
type incoming struct {
	kind    protowire.Number // fieldBatch...
	bodies  [][]byte
	control []byte // RemoteMessage, when it is not a batch
	err     error  // why it is refused; gRPC would answer by itself if Unmarshal said so
}

// codec writes and reads the messages of the stream. Reading is by hand, in one pass: what is not a
// batch of bodies for the link is refused before anything is made from it, and what is made holds no
// more than was sent.
type codec struct{}

// Name implements encoding.CodecV2: the content type is that of protobuf.
func (codec) Name() string { return "proto" }

// Marshal implements encoding.CodecV2. Long bodies are not copied.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	switch m := v.(type) {
	case *batch:
		return m.append(nil), nil
	case proto.Message:
		b, err := proto.Marshal(m)
		return mem.BufferSlice{mem.SliceBuffer(b)}, err
	}
	return nil, fmt.Errorf("a message of type %T", v)
}

// Unmarshal implements encoding.CodecV2.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	switch m := v.(type) {
	case *incoming:
		m.err = m.read(buf.ReadOnlyData())
		return nil
	case proto.Message: // of calls that are answered with "unimplemented"
		if buf.Len() > maxControlBytes {
			return fmt.Errorf("a request of %d bytes", buf.Len())
		}
		return proto.Unmarshal(buf.ReadOnlyData(), m)
	}
	return fmt.Errorf("a message of type %T", v)
}

func (m *batch) append(out mem.BufferSlice) mem.BufferSlice {
	small, inner := 0, sizeString(typeName)+sizeString(targetName)
	for _, body := range m.bodies {
		inner += sizeBytes(sizeEnvelope(len(body)))
		if len(body) < copyBelow {
			small += len(body)
		}
	}
	buf := make([]byte, 0, small+len(m.bodies)*envelopeBytes+batchOverhead)
	buf = protowire.AppendTag(buf, fieldBatch, protowire.BytesType)
	buf = protowire.AppendVarint(buf, uint64(inner))
	buf = protowire.AppendTag(buf, fieldTypeNames, protowire.BytesType)
	buf = protowire.AppendString(buf, typeName)
	buf = protowire.AppendTag(buf, fieldTargets, protowire.BytesType)
	buf = protowire.AppendString(buf, targetName)
	for _, body := range m.bodies {
		buf = protowire.AppendTag(buf, fieldEnvelopes, protowire.BytesType)
		buf = protowire.AppendVarint(buf, uint64(sizeEnvelope(len(body))))
		// Type, target and serializer are number 0, which protobuf leaves out.
		buf = protowire.AppendTag(buf, fieldData, protowire.BytesType)
		buf = protowire.AppendVarint(buf, uint64(sizeBytes(len(body))))
		buf = protowire.AppendTag(buf, fieldValue, protowire.BytesType)
		buf = protowire.AppendVarint(buf, uint64(len(body)))
		if len(body) < copyBelow {
			buf = append(buf, body...)
			continue
		}
		out = append(out, mem.SliceBuffer(buf), mem.SliceBuffer(body))
		buf = buf[len(buf):]
	}
	return append(out, mem.SliceBuffer(buf))
}

// sizeBytes is the length of a field with a one-byte tag that holds n bytes.
func sizeBytes(n int) int { return 1 + protowire.SizeBytes(n) }

func sizeString(s string) int { return sizeBytes(len(s)) }

func sizeEnvelope(body int) int { return sizeBytes(sizeBytes(body)) }

func (m *incoming) read(b []byte) error {
	*m = incoming{}
	return fields(b, func(num protowire.Number, typ protowire.Type, value []byte, _ uint64) error {
		if m.kind != 0 {
			return errors.New("more than one message in a message")
		}
		switch num {
		case fieldBatch, fieldConnect, fieldConnected, fieldDisconnect:
		default:
			return nil
		}
		if typ != protowire.BytesType {
			return fmt.Errorf("field %d of a message has wire type %d", num, typ)
		}
		m.kind = num
		if num == fieldBatch {
			return m.readBatch(value)
		}
		if len(b) > maxControlBytes {
			return fmt.Errorf("a control message of %d bytes; at most %d are expected", len(b), maxControlBytes)
		}
		m.control = bytes.Clone(b)
		return nil
	})
}

func (m *incoming) readBatch(b []byte) error {
	types, targets := 0, 0
	err := fields(b, func(num protowire.Number, typ protowire.Type, value []byte, _ uint64) error {
		if num <= fieldSenders && typ != protowire.BytesType {
			return fmt.Errorf("field %d of a batch has wire type %d", num, typ)
		}
		switch num {
		case fieldTypeNames:
			types++
			return only("type", typeName, value, types)
		case fieldTargets:
			targets++
			return only("target", targetName, value, targets)
		case fieldSenders:
			return errors.New("a batch with senders")
		case fieldEnvelopes:
			if len(m.bodies) == maxBatchBodies {
				return fmt.Errorf("a batch of more than %d bodies", maxBatchBodies)
			}
			body, err := readEnvelope(value)
			m.bodies = append(m.bodies, body)
			return err
		}
		return nil
	})
	if err == nil && len(m.bodies) > 0 && (types == 0 || targets == 0) {
		err = errors.New("a batch without type or target")
	}
	return err
}

func only(what, want string, got []byte, n int) error {
	if string(got) != want {
		return fmt.Errorf("a message for %s %.64q; only %q is accepted", what, got, want)
	}
	if n > 1 {
		return fmt.Errorf("a batch with more than one %s", what)
	}
	return nil
}

// readEnvelope returns the body, copied.
func readEnvelope(b []byte) ([]byte, error) {
	var data []byte
	err := fields(b, func(num protowire.Number, typ protowire.Type, value []byte, n uint64) error {
		switch num {
		case fieldTypeID, fieldTarget, fieldSender, fieldSerializer:
			if typ != protowire.VarintType || n != 0 {
				return fmt.Errorf("an envelope with number %d in field %d: there is only 0", n, num)
			}
		case fieldHeader:
			return errors.New("an envelope with a header")
		case fieldData:
			if typ != protowire.BytesType {
				return fmt.Errorf("the data of an envelope has wire type %d", typ)
			}
			data = value
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var body []byte
	err = fields(data, func(num protowire.Number, typ protowire.Type, value []byte, _ uint64) error {
		if num == fieldValue {
			if typ != protowire.BytesType {
				return fmt.Errorf("a body of wire type %d", typ)
			}
			body = value
		}
		return nil
	})
	if len(body) > MaxBodyBytes {
		return nil, fmt.Errorf("a body of %d bytes; at most %d are accepted", len(body), MaxBodyBytes)
	}
	return append([]byte{}, body...), err
}

// fields calls fn for each field of a protobuf message: with value for fields of bytes, else with n
// for varints.
func fields(b []byte, fn func(num protowire.Number, typ protowire.Type, value []byte, n uint64) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("not protobuf: %w", protowire.ParseError(n))
		}
		b = b[n:]
		var value []byte
		var number uint64
		switch typ {
		case protowire.BytesType:
			value, n = protowire.ConsumeBytes(b)
		case protowire.VarintType:
			number, n = protowire.ConsumeVarint(b)
		case protowire.Fixed32Type, protowire.Fixed64Type:
			n = protowire.ConsumeFieldValue(num, typ, b)
		default:
			return fmt.Errorf("not protobuf as expected: wire type %d", typ) // groups nest, and nobody uses them
		}
		if n < 0 {
			return fmt.Errorf("not protobuf: %w", protowire.ParseError(n))
		}
		b = b[n:]
		if err := fn(num, typ, value, number); err != nil {
			return err
		}
	}
	return nil
}

// readControl decodes what is not a batch.
func readControl(b []byte) (*protoremote.RemoteMessage, error) {
	m := new(protoremote.RemoteMessage)
	if err := proto.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("not protobuf: %w", err)
	}
	return m, nil
}
