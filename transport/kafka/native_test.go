package kafka

import (
	"fmt"
	"testing"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/stretchr/testify/require"
)

// TestNativeHandle fails when a version of confluent-kafka-go keeps its handle elsewhere:
// then native has to be changed with the version in go.mod.
func TestNativeHandle(t *testing.T) {
	cfg := testConfig(t, "127.0.0.1:1")
	m := cfg.common()
	p, err := ck.NewProducer(&m)
	require.NoError(t, err)
	defer p.Close()
	rk, err := native(p)
	require.NoError(t, err)
	require.NotNil(t, rk)
	for _, other := range []any{nil, 1, &struct{ handle int }{}, &struct{ handle struct{ rk *int } }{}, struct{}{}} {
		_, err := native(other)
		require.ErrorIs(t, err, errBinding, "%T", other)
	}
}

// TestRecordsPassWhole sends records of all shapes through the calls that take many at a
// time, in both directions.
func TestRecordsPassWhole(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		plan := makeTopics(t, cfg, 2)
		huge := make([]byte, 300_000)
		for i := range huge {
			huge[i] = byte(i * i)
		}
		long := make([]byte, keyChunk)
		for i := range long {
			long[i] = byte(i)
		}
		shapes := []Message{
			{},
			{Key: []byte{}, Value: []byte{}},
			{Key: []byte("key"), Value: nil},
			{Key: nil, Value: []byte("value")},
			{Key: []byte("with headers"), Value: []byte("value"), Headers: []Header{
				{Key: "a", Value: []byte("1")}, {Key: "", Value: []byte{}}, {Key: "nil"}, {Key: "a", Value: []byte{0, 1, 2}}}},
			{Key: long, Value: huge},
		}
		var messages []Message
		for i := range 3 * outMessages {
			m := shapes[i%len(shapes)]
			if i >= len(shapes) && i%len(shapes) == len(shapes)-1 {
				m = Message{Key: fmt.Append(nil, i), Value: fmt.Append(nil, "value ", i)} // one huge one will do
			}
			m.Topic, m.Partition = plan.Jobs, int32(i%2)
			messages = append(messages, m)
		}
		tr := readyTransactor(t, cfg, unique())
		require.NoError(t, tr.Commit(within(t, patience), &Transaction{Messages: messages}))

		rec := newRecorder("c", nil)
		c := runConsumer(t, cfg, plan.Jobs, rec, nil)
		eventually(t, func() bool { return rec.count() == len(messages) }, "consumed")
		require.Zero(t, c.n.singly.Load(), "records that passed the inbox by")
		rec.mu.Lock()
		defer rec.mu.Unlock()
		got := rec.records
		for p := range int32(2) {
			at := 0
			for i := range messages {
				want := &messages[i]
				if want.Partition != p {
					continue
				}
				r := &got[p][at]
				at++
				require.Equal(t, want.Key, r.Key, "key %d", i)
				require.Equal(t, want.Value, r.Value, "value %d", i)
				require.Equal(t, want.Headers, r.Headers, "headers %d", i)
				require.Equal(t, p, r.Partition)
				require.Positive(t, r.TimestampMs)
			}
		}
	})
}
