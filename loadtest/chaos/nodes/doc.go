// Package nodes simulates the nodes of the harness: hundreds in a process, each with a
// session to every member, as no member reaches the nodes of another. A node is one
// all the same: what it runs, what it knows and its outbox are shared by its sessions,
// so a job that comes by two members runs once, and a result goes out by the session
// that asked for it last, and again by each that opens anew. With [Config.One] a node
// has one session at a time, and goes by chapter 8 of protocol/SPEC.md where to and when
// to come back.
//
// Most nodes keep the rules of protocol/SPEC.md; by their number some are slow, some
// cut their sockets at random, and some send results again that were acknowledged
// long ago, and results that nobody asked for. All forget everything when their process is
// killed.
package nodes
