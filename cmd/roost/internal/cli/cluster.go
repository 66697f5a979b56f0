package cli

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/roost-server/roost/cmd/roost/internal/api"
)

// printShards prints the partitions of all members, those of each together.
func printShards(w io.Writer, shards []api.ShardView) error {
	byMember := slices.Clone(shards)
	slices.SortStableFunc(byMember, func(a, b api.ShardView) int {
		return cmp.Or(strings.Compare(a.Member, b.Member), cmp.Compare(a.Partition, b.Partition))
	})
	t := newTable(w, "MEMBER", "PARTITION", "PENDING", "DELIVERED", "UNCOMMITTED", "WATERMARK", "COMMITTED", "HIGHEST", "LAG", "RESTARTS", "")
	for i := range byMember {
		x := &byMember[i]
		t.row(orDash(x.Member), strconv.Itoa(int(x.Partition)), strconv.Itoa(x.Pending), strconv.Itoa(x.Delivered), strconv.Itoa(x.Uncommitted),
			strconv.FormatInt(x.Watermark, 10), strconv.FormatInt(x.Committed, 10), strconv.FormatInt(x.Highest, 10),
			strconv.FormatInt(x.Lag, 10), strconv.FormatUint(x.Restarts, 10), shardNotes(x))
	}
	return t.flush()
}

// away is whether a member has nothing, as far as the others know.
func away(m *api.MemberView) bool { return m.State == api.MemberDown || m.State == api.MemberRefused }

// ofMember sums up the partitions of one member: the jobs that are pending, and those not read yet.
// Dashes are for one that did not say.
func ofMember(v *api.StatusView, m *api.MemberView) (pending, lag string) {
	if slices.Contains(v.MissingMembers, m.Name) || away(m) {
		return "-", "-"
	}
	jobs, records := 0, int64(0)
	for i := range v.Shards {
		if s := &v.Shards[i]; s.Member == m.Name {
			jobs += s.Pending
			records += s.Lag
		}
	}
	return strconv.Itoa(jobs), strconv.FormatInt(records, 10)
}

// printMembers prints who the members are and what they have, and then how they are reached.
func printMembers(w io.Writer, v *api.StatusView) error {
	t := newTable(w, "MEMBER", "STATE", "SINCE", "NODES", "CONNECTS/S", "PARTITIONS", "PENDING", "LAG", "")
	for i := range v.Members {
		m := &v.Members[i]
		pending, lag := ofMember(v, m)
		nodes, rate := "-", "-"
		if !away(m) {
			nodes, rate = strconv.Itoa(m.Nodes), strconv.FormatFloat(m.ConnectRate, 'f', 1, 64)
		}
		t.row(clean(m.Name), clean(m.State), since(m.SinceMs), nodes, rate,
			ranges(m.Partitions), pending, lag, memberNotes(m, v.MissingMembers))
	}
	if err := t.flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	t = newTable(w, "MEMBER", "ADDRESS", "NODES AT", "API AT", "VERSION", "CLOCK", "QUEUED", "CERTIFICATE EXPIRES")
	for i := range v.Members {
		m := &v.Members[i]
		t.row(clean(m.Name), orDash(m.Address), orDash(m.NodesAddress), orDash(m.APIAddress), orDash(m.Version),
			clockOffset(m.ClockOffsetMs), queued(m.Link), expiry(m.CertificateEnd))
	}
	return t.flush()
}

// memberNotes says what is not as usual.
func memberNotes(m *api.MemberView, missing []string) string {
	var notes []string
	if slices.Contains(missing, m.Name) {
		notes = append(notes, "DOES NOT ANSWER")
	}
	if m.Reason != "" {
		notes = append(notes, clean(m.Reason))
	}
	if m.Drain != nil {
		notes = append(notes, drainLine(m))
	}
	return strings.Join(notes, "; ")
}

// drainLine says how far a drain has come.
func drainLine(m *api.MemberView) string {
	d := m.Drain
	if d.EndedMs > 0 {
		return fmt.Sprintf("drained %s ago", since(d.EndedMs))
	}
	text := fmt.Sprintf("%d of %s left, %d a second", m.Nodes, plural(d.Began, "node"), d.RatePerS)
	if n := len(m.Partitions); n > 0 {
		text += ", " + plural(n, "partition") + " to hand over"
	}
	return text
}

func clockOffset(ms int64) string {
	if ms == 0 {
		return "-"
	}
	return fmt.Sprintf("%+d ms", ms)
}

func queued(l *api.LinkView) string {
	if l == nil || l.QueuedBytes+l.InFlightBytes == 0 {
		return "-"
	}
	return formatBytes(float64(l.QueuedBytes + l.InFlightBytes))
}

// soon is when an expiry is worth a warning.
const soon = 30 * 24 * time.Hour

func expiry(ms int64) string {
	if ms == 0 {
		return "-"
	}
	left := time.Until(time.UnixMilli(ms))
	text := time.UnixMilli(ms).UTC().Format(time.DateOnly)
	switch {
	case left <= 0:
		return text + " EXPIRED"
	case left < soon:
		return fmt.Sprintf("%s SOON: in %s", text, formatAge(left))
	}
	return text
}

func queuesLine(queues []api.QueueView) string {
	parts := make([]string, 0, len(queues))
	for _, q := range queues {
		text := fmt.Sprintf("%d %s", q.Depth, clean(q.Name))
		if q.Max > 0 {
			text = fmt.Sprintf("%d of %d %s", q.Depth, q.Max, clean(q.Name))
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, ", ")
}

// clusterLine sums up all members.
func clusterLine(v *api.StatusView) string {
	states := map[string]int{}
	nodes := 0
	for i := range v.Members {
		states[v.Members[i].State]++
		if !away(&v.Members[i]) {
			nodes += v.Members[i].Nodes
		}
	}
	parts := []string{}
	for _, s := range slices.Sorted(maps.Keys(states)) {
		parts = append(parts, fmt.Sprintf("%d %s", states[s], clean(s)))
	}
	pending, lag := 0, int64(0)
	for i := range v.Shards {
		pending += v.Shards[i].Pending
		lag += v.Shards[i].Lag
	}
	return fmt.Sprintf("%s (%s), %s, %s, %d pending, lag %d", plural(len(v.Members), "member"), strings.Join(parts, ", "),
		plural(nodes, "node"), plural(len(v.Shards), "partition"), pending, lag)
}
