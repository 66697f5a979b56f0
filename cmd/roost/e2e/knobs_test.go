//go:build linux

package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/protocol"
)

// hand is a node that the test plays itself, besides others.
type hand struct {
	*socket
	id string
}

// heard is what a member said to one of several nodes.
type heard struct {
	to  *hand
	job *protocol.Job // one of these
	end *protocol.Cancel
	ack *protocol.ResultAck
}

// hands connects nodes with a tag and collects what they are told.
func hands(t testing.TB, m *member, tag string, n int) (nodes []*hand, hears <-chan heard) {
	t.Helper()
	all := make(chan heard, 1000)
	for i := range n {
		h := &hand{dial(t, m.nodes), fmt.Sprintf("%s-%d", tag, i)}
		h.write(append([]byte(protocol.Preface), encode(t, &protocol.Hello{Version: 1, NodeID: h.id, Credit: 16,
			Attributes: protocol.Attributes{Kinds: []string{echoKind}, Tags: []string{tag}}})...))
		h.expect(&protocol.Welcome{})
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			h.listen(all)
		}()
		t.Cleanup(func() { _ = h.Close(); <-ended })
		nodes = append(nodes, h)
	}
	return nodes, all
}

// listen reads until the socket ends.
func (h *hand) listen(to chan<- heard) {
	for {
		kind, body, err := h.next()
		if err != nil {
			return
		}
		var m protocol.Message
		said := heard{to: h}
		switch kind {
		case protocol.TypeJob:
			said.job = &protocol.Job{}
			m = said.job
		case protocol.TypeCancel:
			said.end = &protocol.Cancel{}
			m = said.end
		case protocol.TypeResultAck:
			said.ack = &protocol.ResultAck{}
			m = said.ack
		default:
			continue
		}
		if protocol.NewDecoder().Decode(body, m) == nil {
			to <- said
		}
	}
}

// hear waits for the next thing that is told to a node and fits.
func hear(t testing.TB, what string, from <-chan heard, fits func(heard) bool) heard {
	t.Helper()
	limit := time.After(patience)
	for {
		select {
		case h := <-from:
			if fits(h) {
				return h
			}
		case <-limit:
			require.FailNow(t, "no node hears "+what)
		}
	}
}

func hearJob(t testing.TB, from <-chan heard) heard {
	t.Helper()
	return hear(t, "a job", from, func(h heard) bool { return h.job != nil })
}

func hearAck(t testing.TB, from <-chan heard, id string) {
	t.Helper()
	hear(t, "an acknowledgement", from, func(h heard) bool {
		return h.ack != nil && slices.ContainsFunc(h.ack.Acks, func(a protocol.Ack) bool { return string(a.JobID) == id })
	})
}

// answer sends a job's result.
func (h *heard) answer(t testing.TB, outcome protocol.Outcome) {
	t.Helper()
	h.to.write(encode(t, &protocol.Result{JobID: h.job.JobID, Shard: h.job.Shard, Attempt: h.job.Attempt, Outcome: outcome}))
}

// TestCancel cancels jobs that wait, and one that runs, in every way there is.
func TestCancel(t *testing.T) {
	onEachBroker(t, func(t *testing.T, b broker) {
		c := newCluster(t, b)
		m := c.serve()
		nodes, hears := hands(t, m, "n", 1)
		f := newFleet(t)
		f.node("sound", 0, m.nodes)
		p, results, dead := c.producer(), c.read("results"), c.read("dead")
		byRecord := func(id, key string) {
			p.send(p.raw(key, fmt.Appendf(nil, `{"id":%q,"cancel":true,"reason":"by record"}`, id), "application/json"))
		}
		for _, id := range []string{"api", "cli", "record"} {
			p.send(p.json(job(id, "away", echoKind, nil, "ttl_ms", 600_000)))
			m.awaitState(id, "waiting")
		}
		code, _, body := m.request(http.MethodPost, "/v1/jobs/api/cancel", map[string]any{"reason": "by API"})
		require.Equal(t, http.StatusAccepted, code, "%s", body)
		r := m.roost("jobs", "cancel", "cli", "--reason", "by command")
		require.Equal(t, 0, r.code, "%s%s", r.out, r.err)
		require.Contains(t, r.out, "1 cancelled")
		byRecord("record", "away")
		for id, why := range map[string]string{"api": "by API", "cli": "by command", "record": "by record"} {
			o := results.outcome(id)
			require.Equal(t, "cancelled", o.Outcome, "%+v", o)
			require.Contains(t, o.Error, why)
			require.Equal(t, 0, o.Attempt)
		}

		p.send(p.json(job("runs", nodes[0].id, echoKind, nil, "timeout_ms", 600_000)))
		j := hearJob(t, hears)
		byRecord("runs", nodes[0].id)
		told := hear(t, "CANCEL", hears, func(h heard) bool { return h.end != nil })
		require.Equal(t, "runs", string(told.end.JobID))
		require.Equal(t, j.job.Attempt, told.end.Attempt)
		o := results.outcome("runs")
		require.Equal(t, "cancelled", o.Outcome, "%+v", o)
		require.Equal(t, 1, o.Attempt)
		j.answer(t, protocol.OutcomeOK) // too late
		hearAck(t, hears, "runs")

		p.send(p.json(job("half", "", echoKind, nil, "target", map[string]any{"nodes": []string{"sound", "away"}}, "ttl_ms", 600_000)))
		results.outcomesOf("half", 1)
		byRecord("half", "half")
		results.outcomesOf("half", 2)

		byRecord("api", "away")         // has ended: nothing to do
		byRecord("no-such-job", "away") // is not known
		byRecord("runs", "another-key") // may be in another partition, where it is not known
		require.Regexp(t, `^cancel: .*no-such-job`, header(dead.of("away"), "roost-reason"))
		code, _, _ = m.request(http.MethodPost, "/v1/jobs/api/cancel", nil)
		require.Equal(t, http.StatusConflict, code)
		code, _, _ = m.request(http.MethodPost, "/v1/jobs/no-such-job/cancel", nil)
		require.Equal(t, http.StatusNotFound, code)
		p.send(p.json(job("last", "sound", echoKind, nil)))
		require.Equal(t, "ok", results.outcome("last").Outcome)
		m.stop(interrupt)
		all := results.once(7)
		require.Equal(t, "ok", all["half/0"].Outcome)
		require.Equal(t, "cancelled", all["half/1"].Outcome)
		dead.upToEnd()
		require.Equal(t, 1, dead.has("away"))
	})
}

// TestNotBeforeAndDeadline checks that jobs neither start before their time nor wait
// beyond their deadline, also over a restart.
func TestNotBeforeAndDeadline(t *testing.T) {
	onEachBroker(t, func(t *testing.T, b broker) {
		c := newCluster(t, b)
		addrs := []string{"--nodes-listen", freeAddr(t), "--api-listen", freeAddr(t)}
		m := c.serve(addrs...)
		f := newFleet(t)
		f.node("n", 0, m.nodes)
		m.awaitNodes(1)
		p, results := c.producer(), c.read("results")
		now := time.Now().UnixMilli()
		soon, afterRestart, deadline := now+2000, now+15_000, now+1500
		p.send(
			p.json(job("soon", "n", echoKind, nil, "not_before_ms", soon)),
			p.json(job("after-restart", "n", echoKind, nil, "not_before_ms", afterRestart)),
			p.json(job("never", "n", echoKind, nil, "not_before_ms", now+60_000, "deadline_ms", deadline)),
			p.json(job("past", "n", echoKind, nil, "deadline_ms", now-1000)),
			p.json(job("away", "away", echoKind, nil, "deadline_ms", deadline)),
			p.json(job("both", "n", echoKind, nil, "not_before_ms", now-1000, "deadline_ms", now+60_000)),
			p.json(job("at-once", "n", echoKind, nil)),
		)
		require.Equal(t, "ok", results.outcome("at-once").Outcome)
		require.Equal(t, "ok", results.outcome("both").Outcome)
		require.Equal(t, "expired", results.outcome("past").Outcome)
		o := results.outcome("soon")
		require.Equal(t, "ok", o.Outcome, "%+v", o)
		require.GreaterOrEqual(t, o.TimeMs, soon, "it started too early")
		for _, id := range []string{"never", "away"} {
			o := results.outcome(id)
			require.Equal(t, "expired", o.Outcome, "%+v", o)
			require.GreaterOrEqual(t, o.TimeMs, deadline, "%s expired too early", id)
			require.Zero(t, o.Attempt)
		}
		m.kill()
		m = c.serve(addrs...)
		o = results.outcome("after-restart")
		require.Equal(t, "ok", o.Outcome, "%+v", o)
		require.GreaterOrEqual(t, o.TimeMs, afterRestart, "it started too early")
		f.awaitDrained()
		m.stop(interrupt)
		results.once(7)
		_, again := f.ran()
		require.Zero(t, again)
	})
}

// TestBackoff checks the pauses between the attempts of a job whose node is silent, and
// of one whose node says itself that time ran out.
func TestBackoff(t *testing.T) {
	t.Parallel()
	b := startBroker(t, t.TempDir()+"/data", "127.0.0.1:0")
	c := newCluster(t, b.broker())
	m := c.serve()
	_, hears := hands(t, m, "n", 1)
	p, results := c.producer(), c.read("results")
	const backoff = 400 * time.Millisecond
	p.send(p.json(job("says", "n-0", echoKind, nil, "attempts", 3, "timeout_ms", 60_000, "backoff_ms", backoff.Milliseconds())))
	for attempt, pause := uint32(1), time.Duration(0); attempt <= 3; attempt++ {
		from := time.Now()
		j := hearJob(t, hears)
		require.Equal(t, attempt, j.job.Attempt)
		require.GreaterOrEqual(t, time.Since(from), pause, "the pause before attempt %d", attempt)
		pause = backoff<<(attempt-1) - 20*time.Millisecond // the moment before this one is not quite the member's
		j.answer(t, protocol.OutcomeTimeout)
	}
	o := results.outcome("says")
	require.Equal(t, "timeout", o.Outcome, "%+v", o)
	require.Equal(t, 3, o.Attempt)

	const timeout = 200 * time.Millisecond
	p.send(p.json(job("silent", "n-0", echoKind, nil, "attempts", 2, "timeout_ms", timeout.Milliseconds(), "backoff_ms", backoff.Milliseconds())))
	require.EqualValues(t, 1, hearJob(t, hears).job.Attempt)
	from := time.Now()
	require.EqualValues(t, 2, hearJob(t, hears).job.Attempt)
	require.GreaterOrEqual(t, time.Since(from), timeout+backoff-20*time.Millisecond)
	o = results.outcome("silent")
	require.Equal(t, "timeout", o.Outcome, "%+v", o)
	require.Equal(t, 2, o.Attempt)

	p.send(p.json(job("none", "n-0", echoKind, nil, "attempts", 10, "timeout_ms", 60_000, "backoff_ms", 0)))
	from = time.Now()
	for range 10 {
		j := hearJob(t, hears)
		j.answer(t, protocol.OutcomeTimeout)
	}
	require.Less(t, time.Since(from), patience/2)
	require.Equal(t, 10, results.outcome("none").Attempt)

	// What a node refuses, or says of a check, is final for a job on one node.
	for id, said := range map[string]protocol.Outcome{"refused": protocol.OutcomeRefused, "failed": protocol.OutcomeFailed} {
		p.send(p.json(job(id, "n-0", echoKind, nil, "attempts", 3, "backoff_ms", 0)))
		j := hearJob(t, hears)
		j.answer(t, said)
		o = results.outcome(id)
		require.Equal(t, id, o.Outcome, "%+v", o)
		require.Equal(t, 1, o.Attempt)
	}
	m.stop(interrupt)
	results.once(5)
}

// TestSelectorTopUp replaces chosen nodes that are silent, refuse, or die.
func TestSelectorTopUp(t *testing.T) {
	onEachBroker(t, func(t *testing.T, b broker) {
		c := newCluster(t, b)
		m := c.serve()
		nodes, hears := hands(t, m, "t", 4)
		p, results := c.producer(), c.read("results")
		sel := func(id string, count int, more ...any) {
			more = append(more, "target", map[string]any{"select": map[string]any{"tags": []string{"t"}, "count": count}}, "backoff_ms", 50)
			p.send(p.json(job(id, "", echoKind, nil, more...)))
		}
		sel("refused", 1, "attempts", 4)
		asked := map[string]bool{}
		var j heard
		for attempt := range uint32(3) {
			j = hearJob(t, hears)
			require.False(t, asked[j.to.id], "%s refused it already", j.to.id)
			asked[j.to.id] = true
			require.Equal(t, attempt+1, j.job.Attempt)
			if attempt < 2 {
				j.answer(t, protocol.OutcomeRefused)
			}
		}
		j.answer(t, protocol.OutcomeOK)
		o := results.outcome("refused")
		require.Equal(t, "ok", o.Outcome, "%+v", o)
		require.Equal(t, j.to.id, o.Node)
		require.Equal(t, 3, o.Attempt)

		sel("silent", 2, "attempts", 3, "timeout_ms", 300)
		first, silent := hearJob(t, hears), hearJob(t, hears)
		require.NotEqual(t, first.to.id, silent.to.id)
		first.answer(t, protocol.OutcomeOK)
		var withdrawn bool
		next := hear(t, "the replaced job", hears, func(h heard) bool {
			withdrawn = withdrawn || h.end != nil && h.to == silent.to
			return h.job != nil
		})
		require.NotContains(t, []string{first.to.id, silent.to.id}, next.to.id)
		require.EqualValues(t, 2, next.job.Attempt)
		next.answer(t, protocol.OutcomeOK)
		if !withdrawn {
			hear(t, "CANCEL", hears, func(h heard) bool { return h.end != nil && h.to == silent.to })
		}
		all := results.outcomesOf("silent", 2)
		slices.SortFunc(all, func(a, b outcome) int { return a.Attempt - b.Attempt })
		require.Equal(t, []string{first.to.id, next.to.id}, []string{all[0].Node, all[1].Node})
		require.Equal(t, []int{1, 2}, []int{all[0].Attempt, all[1].Attempt})
		require.NotEqual(t, all[0].Index, all[1].Index)
		silent.answer(t, protocol.OutcomeOK) // too late: acknowledged and dropped
		hearAck(t, hears, "silent")

		sel("dies", 1, "attempts", 2, "timeout_ms", 300)
		victim := hearJob(t, hears)
		require.NoError(t, victim.to.Close())
		next = hearJob(t, hears)
		require.NotEqual(t, victim.to.id, next.to.id)
		require.EqualValues(t, 2, next.job.Attempt)
		next.answer(t, protocol.OutcomeOK)
		require.Equal(t, next.to.id, results.outcome("dies").Node)

		sel("all-refuse", 1, "attempts", 100)
		for range len(nodes) - 1 {
			j := hearJob(t, hears)
			j.answer(t, protocol.OutcomeRefused)
		}
		o = results.outcome("all-refuse")
		require.Equal(t, "refused", o.Outcome, "%+v", o)
		m.stop(interrupt)
		results.once(5)
	})
}

// TestUnmatchedSaysWhy checks that the outcomes of a selector add up to its count, and
// tell which filter left too few nodes.
func TestUnmatchedSaysWhy(t *testing.T) {
	t.Parallel()
	b := startBroker(t, t.TempDir()+"/data", "127.0.0.1:0")
	c := newCluster(t, b.broker())
	m := c.serve()
	f := newFleet(t)
	for i := range 6 {
		at := protocol.Attributes{Country: "AU", City: "Sydney", ASN: uint32(100 + i%2), Tags: []string{"home"}}
		if i == 0 {
			at.Country, at.City = "NZ", "Auckland"
		}
		f.nodeWith(at, nodeID(i), 0, m.nodes)
	}
	m.awaitNodes(6)
	p, results := c.producer(), c.read("results")
	tests := []struct {
		id, kind  string
		sel       map[string]any
		ok, short int
		says      string
	}{
		{"country", echoKind, map[string]any{"country": "NZ", "count": 3}, 1, 2, `2 of 3 .*country=NZ`},
		{"nowhere", echoKind, map[string]any{"country": "AQ"}, 0, 1, `1 of 1 .*country=AQ`},
		{"kind", "e2e.unheard-of", map[string]any{"country": "AU", "count": 2}, 0, 2, `2 of 2 .*6 .*e2e\.unheard-of`},
		{"tags", echoKind, map[string]any{"tags": []string{"home", "mobile"}, "count": 2}, 0, 2, `2 of 2 .*mobile`},
		{"asn", echoKind, map[string]any{"asn": 101, "country": "AU", "count": 10}, 3, 7, `7 of 10 `},
		{"too-many", echoKind, map[string]any{"count": 9}, 6, 3, `3 of 9 .*6`},
	}
	sum := 0
	for _, tt := range tests {
		p.send(p.json(job(tt.id, "", tt.kind, nil, "target", map[string]any{"select": tt.sel})))
		sum += tt.ok + tt.short
	}
	for _, tt := range tests {
		got := map[string]int{}
		for _, o := range results.outcomesOf(tt.id, tt.ok+tt.short) {
			got[o.Outcome]++
			if o.Outcome == "unmatched" {
				require.Regexp(t, tt.says, o.Error, tt.id)
				require.Empty(t, o.Node)
			}
		}
		require.Equal(t, tt.ok, got["ok"], "%s: %v", tt.id, got)
		require.Equal(t, tt.short, got["unmatched"], "%s: %v", tt.id, got)
		t.Log(tt.id, results.outcomesOf(tt.id, tt.ok+tt.short)[tt.ok+tt.short-1].Error)
	}
	f.awaitDrained()
	m.stop(interrupt)
	results.once(sum)
}
