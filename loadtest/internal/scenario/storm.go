//go:build linux

package scenario

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/roost-server/roost/loadtest/internal/nodes"
	"github.com/roost-server/roost/loadtest/internal/timeline"
)

// storm is a moment at which sockets were cut, until all is as before.
type storm struct {
	timeline.Storm
	phase     *Phase
	at        time.Time
	cut       uint64 // by then, these included
	connected int    // before
	submitted int64
}

// cut cuts the sockets of a phase's storm.
func (e *engine) cut(ctx context.Context, p *Phase) error {
	before := e.env.Group.Stats()
	s := &storm{phase: p, connected: before.Connected}
	s.Phase, s.ReconnectedMs, s.RecoveredMs = p.Name, -1, -1
	if e.load != nil {
		s.submitted = e.load.Submitted()
	}
	s.at, s.AtMs = time.Now(), e.ms()
	e.cuts++
	if e.load != nil && p.Storm < 1 {
		e.load.Compare(e.spared(e.cuts, p.Storm))
	}
	hit, err := e.env.Group.Cut(ctx, p.Storm)
	if err != nil {
		return err
	}
	s.Cut, s.cut = hit, before.Cut+uint64(hit)
	e.storms = append(e.storms, s)
	return nil
}

// spared tells the nodes that a cut does not hit.
func (e *engine) spared(round uint64, fraction float64) func(node string) bool {
	seed, prefix := e.env.Spec.Seed, e.env.Spec.NodePrefix
	return func(node string) bool {
		n, err := strconv.Atoi(strings.TrimPrefix(node, prefix))
		return err == nil && !nodes.Hit(seed, round, n, fraction)
	}
}

// watchStorms notes what has come back since storms.
func (e *engine) watchStorms(st *nodes.Stats) {
	for _, s := range e.storms {
		// The cut shows in the same moment as that its nodes are away.
		if s.ReconnectedMs < 0 && st.Cut >= s.cut && st.Connected >= min(s.connected, e.asked-st.Dead) {
			s.ReconnectedMs = time.Since(s.at).Milliseconds()
		}
		if s.RecoveredMs < 0 && (e.load == nil || e.load.Until() >= s.submitted) {
			s.RecoveredMs = time.Since(s.at).Milliseconds()
		}
	}
}
