package shard

import (
	"bytes"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/protocol/record"
)

// kafka is what Kafka has of one partition: transactions are applied at once.
type kafka struct {
	state    map[string][]byte // compacted
	log      []StateRecord     // not compacted
	next     int64
	results  []record.Result
	dead     []Write
	progress []record.Progress
}

func newKafka() *kafka { return &kafka{state: map[string][]byte{}, next: -1} }

// commit applies a batch. It copies everything: the batch's memory is not ours.
func (k *kafka) commit(b *Batch) {
	k.next = b.Next
	for i := range b.Writes {
		switch w := &b.Writes[i]; w.Stream {
		case State:
			key, value := string(w.Key), bytes.Clone(w.Value)
			if value == nil {
				delete(k.state, key)
			} else {
				k.state[key] = value
			}
			k.log = append(k.log, StateRecord{Key: []byte(key), Value: value})
		case Results:
			r, err := record.ParseResult("", bytes.Clone(w.Value))
			if err != nil {
				panic(err)
			}
			k.results = append(k.results, r)
		case Dead:
			k.dead = append(k.dead, *w)
		case Progress:
			p, err := record.ParseProgress(w.Value)
			if err != nil {
				panic(err)
			}
			k.progress = append(k.progress, p)
		}
	}
}

// records returns the compacted state, in some order.
func (k *kafka) records() []StateRecord {
	var out []StateRecord
	for _, key := range slices.Sorted(maps.Keys(k.state)) {
		out = append(out, StateRecord{Key: []byte(key), Value: k.state[key]})
	}
	return out
}

// lose takes a job's record out of the state.
func (k *kafka) lose(t *testing.T, job string) {
	key := string(appendJobKey(nil, job))
	require.Contains(t, k.state, key)
	delete(k.state, key)
}
