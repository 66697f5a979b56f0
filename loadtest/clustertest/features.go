//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// features are what the binary under test offers, by its own help: scenarios that need
// what an older one lacks are skipped, or do without.
type features struct {
	cluster   bool // members find each other, and a node may connect to any
	tls       bool // between members
	certs     bool // the command
	drain     bool // the command
	paced     bool // a member that stops sends its nodes elsewhere, so many a second
	proxy     bool // the PROXY protocol
	advertise bool // what nodes are told
}

func probe(ctx context.Context, o *options) (f features, err error) {
	help := func(args ...string) string {
		out, e := exec.CommandContext(ctx, o.Roost, append(args, "--help")...).CombinedOutput()
		if e != nil {
			err = fmt.Errorf("%s %s --help: %w: %s", o.Roost, strings.Join(args, " "), e, out)
		}
		return string(out)
	}
	serve, all := help("serve"), help()
	f.cluster = strings.Contains(serve, "--cluster-listen ")
	f.tls = strings.Contains(serve, "--cluster-tls-ca ")
	f.paced = strings.Contains(serve, "--drain-rate ") && strings.Contains(serve, "--drain-timeout ")
	f.proxy = strings.Contains(serve, "--proxy-protocol ")
	f.advertise = strings.Contains(serve, "--nodes-advertise ")
	for line := range strings.Lines(all) {
		switch name, _, _ := strings.Cut(strings.TrimSpace(line), " "); name {
		case "certs":
			f.certs = true
		case "drain":
			f.drain = true
		}
	}
	return f, err
}

// lacks lists what is missing, for the first lines of the output.
func (f *features) lacks() (list []string) {
	for _, v := range []struct {
		have bool
		what string
	}{
		{f.cluster, "--cluster-listen: members do not know each other, and each node has a session to every one"},
		{!f.cluster || f.tls && f.certs, "certificates for members: they speak plaintext"},
		{f.drain, "command drain: members are stopped by SIGTERM alone"},
		{f.proxy, "--proxy-protocol"},
	} {
		if !v.have {
			list = append(list, v.what)
		}
	}
	return list
}

// haproxy is the program, or why it cannot be run.
func haproxy(o *options) (path, why string) {
	path, err := exec.LookPath("haproxy")
	if err != nil {
		return "", "the program haproxy is not installed"
	}
	if _, err := os.Stat(o.haproxyCfg); err != nil {
		return "", err.Error()
	}
	return path, ""
}
