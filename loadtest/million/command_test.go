//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/loadtest/million/guest"
	"github.com/roost-server/roost/loadtest/million/steps"
	"github.com/roost-server/roost/loadtest/million/vm"
)

func TestTheGuestHasWhatItNeeds(t *testing.T) {
	self, err := os.Executable() // a program like any other
	require.NoError(t, err)
	o := options{roost: self, drainRate: 7, plan: steps.Plan{Nodes: 1_000_000}}
	o.defaults()
	require.Equal(t, 15*time.Minute, o.plan.Heartbeat)
	require.Equal(t, 30*time.Minute, o.plan.Hold)
	require.InDelta(t, 15_000, o.vm.MemoryMiB, 1000)
	file := filepath.Join(t.TempDir(), "initramfs")
	require.NoError(t, o.build(file))
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	for _, name := range []string{guest.Program, guest.Roost, guest.ConfigFile, "/proc", "/tmp", "/etc/hosts"} {
		require.True(t, bytes.Contains(b, []byte(name[1:]+"\x00")), name)
	}
	o.roost = file + ".none"
	require.ErrorContains(t, o.build(file), "make build")
}

func TestTheGuestsAccountIsKept(t *testing.T) {
	var w watcher
	var out bytes.Buffer
	data, err := json.Marshal(&steps.Account{Nodes: 7})
	require.NoError(t, err)
	for _, e := range []vm.Event{
		{Kind: vm.KindUp, Text: "Linux"}, {Kind: vm.KindStep, AtMs: 61_000, Text: "drain"}, {Kind: vm.KindShow, Text: "5 of 7"},
		{Kind: vm.KindResult, Data: data}, {Kind: vm.KindFailed, Text: "no power"},
	} {
		w.event(&out, e)
	}
	require.Equal(t, 7, w.account.Nodes)
	require.ErrorContains(t, w.err, "no power")
	require.Contains(t, out.String(), "1m1s  drain")
	w.event(&out, vm.Event{Kind: vm.KindResult, Data: json.RawMessage(`{"nodes":"x"}`)})
	require.ErrorContains(t, w.err, "account")
}

func TestProblemsAreTheExitCode(t *testing.T) {
	var out bytes.Buffer
	cmd := &cobra.Command{}
	cmd.SetOut(&out)
	require.NoError(t, finish(cmd, &steps.Account{Nodes: 3}))
	var a steps.Account
	lines := bytes.Split(bytes.TrimSpace(out.Bytes()), []byte("\n"))
	require.NoError(t, json.Unmarshal(lines[len(lines)-1], &a), "the last line is JSON")
	require.Equal(t, 3, a.Nodes)
	require.Error(t, finish(cmd, &steps.Account{Problems: []string{"lost"}}))
}

func TestRoomIsLeftForNodesOfADrainedMember(t *testing.T) {
	require.Equal(t, 19_000, room(20_000, 0))
	require.Equal(t, 9500, room(20_000, 2))
	require.Equal(t, 15_833, room(20_000, 6))
	for members := 2; members < 10; members++ {
		n := room(20_000, members)
		require.LessOrEqual(t, (n*members+members-2)/(members-1), 20_000-filesReserve+1)
	}
}

func TestASpreadThatCannotBeIsRefused(t *testing.T) {
	for args, says := range map[[2]string]string{
		{"--spread", "1"}:       "--spread: 1; allowed are 2 to 64",
		{"--nodes", "0"}:        "--nodes: 0",
		{"--heartbeat", "10ms"}: "--heartbeat: 10ms",
	} {
		cmd := command()
		cmd.SetArgs(args[:])
		require.ErrorContains(t, cmd.ExecuteContext(t.Context()), says)
	}
	cmd := command()
	cmd.SetArgs([]string{"--spread", "2", "--nodes", "1000000"})
	require.ErrorContains(t, cmd.ExecuteContext(t.Context()), "use more members")
}
