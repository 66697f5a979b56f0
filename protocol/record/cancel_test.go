package record

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCancelRecord(t *testing.T) {
	for js, want := range map[string]Job{
		`{"id":"j","cancel":true}`: {ID: "j", Cancel: true},
		`{"reason":"no longer \u2603","cancel":true,"tenant":"t","id":"j"}`:            {ID: "j", Cancel: true, CancelReason: "no longer ☃", Tenant: "t"},
		`{"id":"j","cancel":true,"reason":null,"kind":null,"target":null,"args":null}`: {ID: "j", Cancel: true},
		`{"id":"j","cancel":true,"reason":"` + strings.Repeat("x", 256) + `"}`:         {ID: "j", Cancel: true, CancelReason: strings.Repeat("x", 256)},
	} {
		j, err := both(t, js)
		require.NoError(t, err, js)
		want.Encoding = JSON
		require.Equal(t, want, j)
		require.NoError(t, j.Validate())
		require.Equal(t, want, j, "no defaults of a job")
		require.Equal(t, "j", j.Key())
		require.Zero(t, j.Target.Size())
		for _, j.Encoding = range []Encoding{JSON, Msgpack} {
			b, err := AppendJob(nil, &j)
			require.NoError(t, err)
			back, err := ParseJob("", b)
			require.NoError(t, err)
			require.Equal(t, j, back)
		}
	}
}

func TestCancelRecordRefuses(t *testing.T) {
	const allowed = ": not allowed in a cancel record; allowed are id, cancel, reason, tenant"
	values := map[string]string{"kind": `""`, "target": `{"node":"n"}`, "args": `{}`, "timeout_ms": "5", "deadline_ms": "5", "ttl_ms": "5", "not_before_ms": "0",
		"attempts": "1", "backoff_ms": "0", "priority": "0", "id": "", "cancel": "", "reason": "", "tenant": ""}
	require.Len(t, values, len(jobNames))
	for _, name := range jobNames {
		v, ok := values[name]
		require.True(t, ok, name)
		if v == "" {
			continue
		}
		for _, js := range []string{`{"id":"j","cancel":true,"` + name + `":` + v + `}`, `{"` + name + `":` + v + `,"id":"j","cancel":true}`} {
			_, err := both(t, js)
			require.ErrorContains(t, err, name+allowed, js)
		}
	}
	for js, why := range map[string]string{
		`{"cancel":true}`: "id: missing", `{"id":"a b","cancel":true}`: "id: ", `{"id":"j","cancel":1}`: "cancel: true or false", `{"id":"j","cancel":"true"}`: "cancel: true or false",
		`{"id":"j","cancel":true,"why":"x"}`: `unknown field "why"`, `{"id":"j","cancel":true,"reason":5}`: "reason: a string",
		`{"id":"j","cancel":true,"reason":"` + strings.Repeat("x", 257) + `"}`:    "reason: 257 bytes; at most 256",
		`{"id":"j","cancel":true,"tenant":"` + strings.Repeat("x", 65) + `"}`:     "tenant: 65",
		`{"id":"j","kind":"k","target":{"node":"n"},"reason":"x"}`:                "reason: only allowed beside cancel: true",
		`{"id":"j","kind":"k","target":{"node":"n"},"cancel":false,"reason":"x"}`: "reason: only allowed",
		`{"id":"j","cancel":false}`:                                               "kind: missing",
	} {
		_, err := both(t, js)
		require.ErrorContains(t, err, why, js)
	}
	_, err := ParseJob("", []byte(`{"id":"j","cancel":true,"cancel":true}`))
	require.ErrorContains(t, err, "cancel is there twice")
	_, err = ParseJob("", []byte{0x82, 0xa2, 'i', 'd', 0xa1, 'j', 0xa6, 'c', 'a', 'n', 'c', 'e', 'l', 0xcc})
	require.Error(t, err)

	// The same for one that a program makes.
	sel := &Selector{}
	for name, j := range map[string]Job{
		"kind": {Kind: "k"}, "target": {Target: Target{Node: "n"}}, "args": {Args: []byte{0xc0}}, "timeout_ms": {Timeout: 1}, "deadline_ms": {DeadlineMs: 1}, "ttl_ms": {TTL: 1},
		"not_before_ms": {NotBeforeMs: 1}, "attempts": {Attempts: 1}, "backoff_ms": {Backoff: NoBackoff}, "priority": {Priority: 1},
	} {
		j.ID, j.Cancel = "j", true
		require.ErrorContains(t, j.Validate(), name+allowed)
	}
	for why, j := range map[string]Job{"target": {Target: Target{Nodes: []string{"a"}}}, "target: not": {Target: Target{Select: sel}}, "reason: not valid UTF-8": {CancelReason: "\xff"}} {
		j.ID, j.Cancel = "j", true
		require.ErrorContains(t, j.Validate(), why)
	}
}

// What a program left in a cancel record does not get into the topic.
func TestCancelRecordIsSmall(t *testing.T) {
	j := Job{ID: "j", Kind: "k", Target: Target{Node: "n"}, Attempts: 3, Cancel: true, Encoding: JSON}
	b, err := AppendJob(nil, &j)
	require.NoError(t, err)
	require.JSONEq(t, `{"id":"j","cancel":true}`, string(b))
	require.Equal(t, "n", j.Key(), "the target still says the key")
}
