//go:build linux

package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestEventsPassTheirPort(t *testing.T) {
	want := []Event{
		{Kind: KindUp, Text: "up \x02 \"quoted\"\nsecond line"},
		{Kind: KindShow, AtMs: 1234, Text: "größer"},
		{Kind: KindResult, AtMs: 5, Data: json.RawMessage(`{"nodes":7}`)},
	}
	var b bytes.Buffer
	b.WriteString("\x1b[2J firmware's greeting")
	for i := range want {
		require.NoError(t, Write(&b, &want[i]))
		b.WriteString("noise {\"kind\":\"up\"}\r\n")
	}
	b.WriteString("\x02{\"kind\":\"show\",\"te") // cut off
	var got []Event
	read(strings.NewReader(strings.ReplaceAll(b.String(), "}\n", "}\r\n")), func(e Event) { got = append(got, e) })
	require.Equal(t, want, got)
}

func TestParseRefusesNoise(t *testing.T) {
	for _, line := range []string{"", "\x02", "\x02{}", "\x02[1]", "{\"kind\":\"up\"}", "\x02{\"kind\":\"up\"", "[ 1.0] Linux version"} {
		_, ok := Parse(line)
		require.False(t, ok, "%q", line)
	}
}

func TestDistress(t *testing.T) {
	log := "[    1.0] Linux version 6.1\n[    2.0] Out of memory: Killed process 77 (roost)\r\n[    3.0] reboot: Power down\n" +
		"[    4.0] Kernel panic - not syncing: Attempted to kill init!\n"
	require.Equal(t, []string{"[    2.0] Out of memory: Killed process 77 (roost)", "[    4.0] Kernel panic - not syncing: Attempted to kill init!"}, Distress(log))
	require.Empty(t, Distress("[    1.0] Linux version 6.1\n"))
}

func TestVirtualizationIsReadFromTheProcessor(t *testing.T) {
	for text, want := range map[string]bool{
		"processor\t: 0\nflags\t\t: fpu vmx sse\n": true,
		"flags\t\t: fpu svm\n":                     true,
		"flags\t\t: fpu sse\nvmx flags\t: vnmi\n":  false,
		"flags\t\t: vmxx\n":                        false,
		"":                                         false,
	} {
		require.Equal(t, want, hasFlag(text), "%q", text)
	}
}

func TestTheNewestKernel(t *testing.T) {
	dir := t.TempDir()
	for name, age := range map[string]time.Duration{"vmlinuz-6.1.0-9": 2 * time.Hour, "vmlinuz-6.1.0-10": time.Hour, "vmlinuz-5.10": 3 * time.Hour} {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, nil, 0o644))
		at := time.Now().Add(-age)
		require.NoError(t, os.Chtimes(path, at, at))
	}
	got, err := newest(dir + "/vmlinuz-*")
	require.NoError(t, err)
	require.Equal(t, "vmlinuz-6.1.0-10", filepath.Base(got))
	_, err = newest(dir + "/nothing-*")
	require.ErrorContains(t, err, "nothing-*")
}

func TestWhatIsMissingIsNamed(t *testing.T) {
	kernel := filepath.Join(t.TempDir(), "kernel")
	require.NoError(t, os.WriteFile(kernel, nil, 0o644))
	program, err := os.Executable()
	require.NoError(t, err)
	c := Config{QEMU: "no-such-program"}
	require.ErrorContains(t, c.Complete(), "apt-get install")
	c = Config{QEMU: program, Kernel: kernel + ".none"}
	require.ErrorContains(t, c.Complete(), "kernel")
	c = Config{QEMU: program, Kernel: kernel, Accel: "magic"}
	require.ErrorContains(t, c.Complete(), "allowed are kvm and tcg")
	c = Config{QEMU: program, Kernel: kernel, MemoryMiB: 1 << 40}
	require.ErrorContains(t, c.Complete(), "--memory")
	c = Config{QEMU: program, Kernel: kernel, MemoryMiB: 1}
	require.NoError(t, c.Complete())
	require.Contains(t, []string{"tcg", "kvm"}, c.Accel)
}

// A shell stands for QEMU here: what is looked at is how the guest's process is followed.
func TestRunFollowsTheGuest(t *testing.T) {
	dir := t.TempDir()
	script := func(text string) *Config {
		path := filepath.Join(dir, "qemu")
		require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755))
		return &Config{QEMU: path, Console: filepath.Join(dir, "console"), Accel: "tcg", Program: "/million"}
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "console"), []byte("[1] fine\n"), 0o644))
	var got []string
	on := func(e Event) { got = append(got, e.Text) }
	c := script(`printf '\002{"kind":"show","text":"hello"}\n'`)
	require.NoError(t, Run(t.Context(), c, on))
	require.Equal(t, []string{"hello"}, got)

	require.ErrorContains(t, Run(t.Context(), script("echo 'no such processor' >&2; exit 3"), on), "no such processor")

	require.NoError(t, os.WriteFile(filepath.Join(dir, "console"), []byte("[1] Kernel panic - x\n"), 0o644))
	require.ErrorContains(t, Run(t.Context(), script("exit 0"), on), "Kernel panic")

	ctx, cancel := context.WithCancel(t.Context())
	err := Run(ctx, script(`printf '\002{"kind":"show"}\n'; exec sleep 600`), func(Event) { cancel() })
	require.ErrorIs(t, err, context.Canceled)

	require.True(t, slices.Contains(c.args(), emulated))
}
