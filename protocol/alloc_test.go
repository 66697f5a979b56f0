package protocol

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"
)

var hot = []Type{TypeJob, TypeResult, TypeAccepted, TypeProgress, TypeResultAck, TypePing, TypePong, TypeCredit}

func TestHotMessagesDoNotAllocate(t *testing.T) {
	e, d := NewEncoder(), NewDecoder()
	buf := make([]byte, 0, 4096)
	for _, typ := range hot {
		m, into := sampleMessages()[typ], newMessage(typ)
		frame := frameOf(t, m)
		require.Zero(t, testing.AllocsPerRun(200, func() {
			var err error
			if buf, err = e.Append(buf[:0], m); err != nil {
				t.Fatal(err)
			}
		}), "encode %v", typ)
		require.Zero(t, testing.AllocsPerRun(200, func() {
			_, body, _, err := NextFrame(frame, MaxBodyBytes)
			if err == nil {
				err = d.Decode(body, into)
			}
			if err != nil {
				t.Fatal(err)
			}
		}), "decode %v", typ)
	}
}

func benchJob() *Job {
	return &Job{JobID: []byte("01J9ZK3W8Q2V7X5N4M1B6C0D9E"), Shard: 17, Attempt: 1, Kind: []byte("http.get"),
		TimeoutMs: 30000, Priority: 4, Args: append([]byte{0xc4, 128}, make([]byte, 128)...)}
}

func benchResult() *Result {
	return &Result{JobID: []byte("01J9ZK3W8Q2V7X5N4M1B6C0D9E"), Shard: 17, Attempt: 1, Outcome: OutcomeOK,
		DurationUs: 12345, Output: append([]byte{0xc4, 128}, make([]byte, 128)...)}
}

// The same as structs for the library's own Marshal, to compare with.
type reflectedJob struct {
	_msgpack  struct{} `msgpack:",as_array"`
	JobID     []byte
	Shard     uint32
	Attempt   uint32
	Kind      []byte
	TimeoutMs uint32
	Priority  uint8
	Args      []byte
}

type reflectedResult struct {
	_msgpack   struct{} `msgpack:",as_array"`
	JobID      []byte
	Shard      uint32
	Attempt    uint32
	Outcome    uint8
	DurationUs uint64
	Error      []byte
	Output     []byte
}

func benchEncode(b *testing.B, m Message) {
	e := NewEncoder()
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if buf, err = e.Append(buf[:0], m); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(len(buf)))
}

func benchDecode(b *testing.B, m Message) {
	d, into := NewDecoder(), newMessage(m.Type())
	body := frameOf(b, m)[HeaderBytes:]
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if err := d.Decode(body, into); err != nil {
			b.Fatal(err)
		}
	}
}

func benchMarshal(b *testing.B, v any) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := msgpack.Marshal(v); err != nil {
			b.Fatal(err)
		}
	}
}

func benchUnmarshal(b *testing.B, v any, newValue func() any) {
	data, err := msgpack.Marshal(v)
	require.NoError(b, err)
	into := newValue()
	b.ReportAllocs()
	for b.Loop() {
		if err := msgpack.Unmarshal(data, into); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	j, r := benchJob(), benchResult()
	b.Run("JOB", func(b *testing.B) { benchEncode(b, j) })
	b.Run("JOB/msgpack.Marshal", func(b *testing.B) {
		benchMarshal(b, &reflectedJob{JobID: j.JobID, Shard: j.Shard, Attempt: j.Attempt, Kind: j.Kind, TimeoutMs: j.TimeoutMs, Priority: j.Priority, Args: j.Args[2:]})
	})
	b.Run("RESULT", func(b *testing.B) { benchEncode(b, r) })
	b.Run("RESULT/msgpack.Marshal", func(b *testing.B) {
		benchMarshal(b, &reflectedResult{JobID: r.JobID, Shard: r.Shard, Attempt: r.Attempt, DurationUs: r.DurationUs, Output: r.Output[2:]})
	})
}

func BenchmarkDecode(b *testing.B) {
	j, r := benchJob(), benchResult()
	b.Run("JOB", func(b *testing.B) { benchDecode(b, j) })
	b.Run("JOB/msgpack.Unmarshal", func(b *testing.B) {
		benchUnmarshal(b, &reflectedJob{JobID: j.JobID, Shard: j.Shard, Attempt: j.Attempt, Kind: j.Kind, TimeoutMs: j.TimeoutMs, Priority: j.Priority, Args: j.Args[2:]},
			func() any { return new(reflectedJob) })
	})
	b.Run("RESULT", func(b *testing.B) { benchDecode(b, r) })
	b.Run("RESULT/msgpack.Unmarshal", func(b *testing.B) {
		benchUnmarshal(b, &reflectedResult{JobID: r.JobID, Shard: r.Shard, Attempt: r.Attempt, DurationUs: r.DurationUs, Output: r.Output[2:]},
			func() any { return new(reflectedResult) })
	})
}

func BenchmarkScan(b *testing.B) {
	small := frameOf(b, benchJob())[HeaderBytes:]
	large := append([]byte{0xdc, 0xff, 0xff}, make([]byte, 1<<16-1)...)
	for name, body := range map[string][]byte{"job": small, "65535 numbers": large} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				if _, err := Scan(body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
