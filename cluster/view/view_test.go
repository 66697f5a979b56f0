package view

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMembersMeetAndSeeClaims(t *testing.T) {
	w := newWorld(t, 1)
	all := w.start(5)
	e := all[3].Claim(all[3].act(), 7)
	w.run(2000)
	w.agree(all...)
	require.Equal(t, map[uint32]string{7: "m3 " + itoa(e)}, all[0].owners)

	e2 := all[1].Claim(all[1].act(), 7)
	require.Greater(t, e2, e)
	before := w.sent
	w.run(50)
	w.agree(all...)
	require.Equal(t, "m1 "+itoa(e2), all[4].owners[7])
	require.Less(t, w.sent-before, 60)

	all[1].Disclaim(all[1].act(), 7)
	all[3].Disclaim(all[3].act(), 7)
	w.run(50)
	w.agree(all...)
	require.Empty(t, all[0].owners)

	members := all[2].Members(all[2].at())
	require.Len(t, members, 5)
	require.True(t, members[0].Self)
	require.Equal(t, "m0", members[1].Name)
	require.Equal(t, "up", members[1].Status)
	require.Equal(t, "n-m0", members[1].NodesAddr)
}

func TestEpochsRiseAcrossClocks(t *testing.T) {
	w := newWorld(t, 1)
	all := w.start(2)
	all[0].skew = 1500
	w.run(2000)
	e := all[0].Claim(all[0].act(), 1)
	w.run(100)
	require.Greater(t, all[1].Claim(all[1].act(), 1), e, "the other's clock is behind")
	w.run(100)
	slot, _, known := all[0].View.Owner(1)
	require.True(t, known)
	require.NotZero(t, slot)
	require.Zero(t, all[0].Claim(all[0].act(), 64), "there is no such partition")
}

func TestSilenceAndHeal(t *testing.T) {
	w := newWorld(t, 1)
	all := w.start(3)
	epoch := all[1].Claim(all[1].act(), 5)
	w.run(2000)
	w.agree(all...)
	cut := func(from, to string) bool { return from == "m1:1" && to == "m2:1" || from == "m2:1" && to == "m1:1" }
	w.lost = cut
	w.run(2400)
	require.Len(t, all[2].peers, 2, "too early: %v", all[2].history)
	w.run(900)
	require.Equal(t, []string{"m0"}, all[2].names())
	require.Equal(t, []string{"m0"}, all[1].names())
	require.Empty(t, all[2].owners)
	require.Contains(t, all[0].owners, uint32(5))
	w.run(20_000)
	w.lost = func(string, string) bool { return false }
	w.run(3000)
	w.agree(all...)
	require.Equal(t, "m1 "+itoa(epoch), all[2].owners[5])
}

// One side alone believes the other to be gone: the other has to give it up too, since the
// streams between them begin anew.
func TestOneSidedSilence(t *testing.T) {
	w := newWorld(t, 1)
	all := w.start(2)
	w.run(2000)
	w.lost = func(from, _ string) bool { return from == "m0:1" }
	w.run(3500)
	require.Empty(t, all[1].peers)
	w.lost = func(string, string) bool { return false }
	w.run(3000)
	w.agree(all...)
	require.Equal(t, []string{"up m1", "down m1: it lost this member and begins anew", "up m1"}, all[0].history)
}

func TestGoodbye(t *testing.T) {
	w := newWorld(t, 1)
	all := w.start(3)
	all[2].Claim(all[2].act(), 1)
	w.run(2000)
	first := true
	w.lost = func(from, to string) bool { // the first one to m1 is lost
		lost := from == "m2:1" && to == "m1:1" && first
		first = first && !lost
		return lost
	}
	all[2].Leave(all[2].act(), "upgrade")
	w.run(10)
	require.Equal(t, "down m2: left: upgrade", all[0].history[len(all[0].history)-1])
	require.False(t, all[2].Left())
	w.run(700)
	require.True(t, all[2].Left())
	w.kill(all[2])
	w.agree(all[:2]...)

	back := w.add(w.config("m2", "m2:1"), "m0:1")
	w.run(3000)
	w.agree(all[0], all[1], back)
}

// A process that stood still must not take the others for dead when it goes on: they were
// heard, it only had no time to listen.
func TestOwnPause(t *testing.T) {
	w := newWorld(t, 1)
	nervous := w.config("m0", "m0:1")
	nervous.DeadAfterMs = 2000 // the others are not: they do not give it up meanwhile
	all := []*member{w.add(nervous), w.add(w.config("m1", "m1:1"), "m0:1"), w.add(w.config("m2", "m2:1"), "m0:1")}
	w.run(2000)
	all[0].paused = true
	w.run(2300)
	all[0].paused, all[0].nextTick = false, w.now
	w.run(2000)
	w.agree(all...)
	require.Equal(t, []string{"up m1", "up m2"}, sorted(all[0].history))

	all[0].paused = true
	w.run(10_000)
	require.Equal(t, []string{"m2"}, all[1].names())
	all[0].paused, all[0].nextTick = false, w.now
	w.run(3000)
	w.agree(all...)
}

func TestRestart(t *testing.T) {
	w := newWorld(t, 1)
	all := w.start(3)
	all[2].Claim(all[2].act(), 9)
	w.run(2000)
	w.kill(all[2])
	w.run(100)
	same := w.add(w.config("m2", "m2:1"), "m0:1")
	w.run(700)
	w.agree(all[0], all[1], same)
	require.Contains(t, all[0].history, "down m2: restarted")

	w.kill(same)
	w.run(100)
	moved := w.add(w.config("m2", "m2:2"), "m0:1")
	w.run(3200)
	w.agree(all[0], all[1], moved)
	require.Nil(t, moved.conflict)
	require.Contains(t, all[0].history, "down m2: restarted at m2:2")
}

func TestTwoOfOneName(t *testing.T) {
	w := newWorld(t, 1)
	all := w.start(3)
	w.run(2000)
	late := w.add(w.config("m2", "m2:2"), "m0:1")
	w.run(5000)
	require.ErrorContains(t, late.conflict, "two members are called m2")
	require.NoError(t, all[2].conflict)
	w.agree(all...)
	require.Contains(t, all[2].refused[0], "two members are called m2: one at m2:1 and one at m2:2, which started later")
	require.Contains(t, all[0].refused[0], "two members are called m2: one at m2:1, started first")
}

// The two cannot hear each other: a third one tells the later.
func TestTwoOfOneNameApart(t *testing.T) {
	w := newWorld(t, 1)
	all := w.start(2)
	w.lost = func(from, to string) bool { return from == "x:1" && to == "x:2" || from == "x:2" && to == "x:1" }
	early := w.add(w.config("x", "x:1"), "m0:1")
	w.run(100)
	lateCfg := w.config("x", "x:2")
	w.run(2000)
	late := w.add(lateCfg, "m0:1")
	w.run(5000)
	require.ErrorContains(t, late.conflict, "two members are called x")
	require.NoError(t, early.conflict)
	w.kill(late)
	w.run(100)
	w.agree(all[0], all[1], early)
}

// The one that started first was away while the later one joined: it stays all the same.
func TestTwoOfOneNameEarlierComesLate(t *testing.T) {
	w := newWorld(t, 1)
	early := w.config("x", "x:1")
	w.run(1000)
	all := w.start(2)
	late := w.add(w.config("x", "x:2"), "m0:1")
	w.run(3000)
	w.agree(all[0], all[1], late)
	w.lost = func(from, to string) bool { return from == "x:1" && to == "x:2" || from == "x:2" && to == "x:1" }
	first := w.add(early, "m0:1")
	w.run(6000)
	require.ErrorContains(t, late.conflict, "two members are called x")
	require.NoError(t, first.conflict)
	w.kill(late)
	w.run(3000)
	w.agree(all[0], all[1], first)
}

func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		change func(cfg *Config, m *member)
		first  bool // change before it starts
		want   string
	}{
		"cluster":    {change: func(c *Config, _ *member) { c.Cluster = "d" }, want: `of cluster "`},
		"partitions": {change: func(c *Config, _ *member) { c.Partitions = 65 }, want: "they must use the same"},
		"version":    {change: func(c *Config, _ *member) { c.MinVersion, c.MaxVersion = 2, 3 }, want: "upgrade the older"},
		"clock":      {change: func(_ *Config, m *member) { m.skew = -2600 }, want: "apart, at most 2.0 s are allowed"},
		"certificate": {
			change: func(_ *Config, m *member) { m.cert = "other" },
			want:   "has a certificate for other",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			w.delayMs = func(_, to string) int64 { return map[bool]int64{true: 120, false: 5}[to == "odd:1"] }
			all := w.start(2)
			var probe member
			cfg := w.config("odd", "odd:1")
			c.change(&cfg, &probe)
			odd := w.add(cfg, "m0:1")
			odd.skew, odd.cert = probe.skew, probe.cert
			w.run(8000)
			w.agree(all...)
			require.Empty(t, odd.peers)
			for _, m := range []*member{all[0], odd} {
				require.NotEmpty(t, m.refused, m.cfg.Name)
				for _, r := range m.refused {
					require.Contains(t, r, c.want)
				}
				require.LessOrEqual(t, len(m.refused), 2, m.refused)
			}
			odd.skew, odd.cert = 0, ""
			w.run(5000)
			if name == "clock" || name == "certificate" {
				w.agree(all[0], all[1], odd)
			}
		})
	}
}

// The name of a member in another cluster, or in a wrong certificate, is no reason to
// bother the member of that name.
func TestNamesElsewhere(t *testing.T) {
	w := newWorld(t, 1)
	all := w.start(2)
	w.run(2000)
	cfg := w.config("m1", "else:1")
	cfg.Cluster = "d"
	w.add(cfg, "m0:1", "m1:1")
	forged := w.add(w.config("m1", "forged:1"), "m0:1", "m1:1")
	forged.cert = "mallory"
	w.run(6000)
	w.agree(all...)
	require.Equal(t, []string{"up m1"}, all[0].history)
	require.NoError(t, all[1].conflict)
}

func TestUnreachableAddress(t *testing.T) {
	w := newWorld(t, 1)
	all := w.start(1)
	odd := w.add(w.config("odd", "10.9.9.9:1"), "m0:1")
	w.kill(odd) // nobody reaches it there
	w.members["hidden"] = odd
	w.order = append(w.order, "hidden")
	w.run(7000)
	require.Equal(t, []string{"odd 10.9.9.9:1: we hear odd but it does not hear us at 10.9.9.9:1, which it advertises: it must be reachable from here"}, all[0].refused)
	require.Len(t, odd.refused, 1)
	require.Contains(t, odd.refused[0], "no answer for 5.0 s: nobody listens there, or it cannot reach this member at 10.9.9.9:1")
	last := odd.Members(odd.at())
	require.Equal(t, "silent", last[len(last)-1].Status)
}

// A member that is dialled at another address than it advertises, and at its own.
func TestAliases(t *testing.T) {
	w := newWorld(t, 1)
	a := w.add(w.config("a", "a:1"), "a:1", "vip-a:1", "vip-b:1")
	b := w.add(w.config("b", "b:1"))
	w.members["vip-a:1"], w.members["vip-b:1"] = a, b
	w.run(10_000)
	w.agree(a, b)
	require.Empty(t, a.refused)
	require.Len(t, a.Members(a.at()), 2)
}
