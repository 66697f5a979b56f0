// Package remote makes one set of simulated nodes out of several processes, on this host
// and on others, so that neither the file limit of a process nor the ports of a host are
// a ceiling for a load test.
//
// A [Worker] has nodes and serves one coordinator at a time. A [Group] is that
// coordinator: itself a nodes.Group, it gives each worker its share of the nodes, passes
// on what the test does to them, and adds up what the workers report.
//
// The two speak JSON messages, each after its length in four bytes, over one connection:
// a socket pair for the coordinator's own children, TCP for workers on other hosts. The
// worker speaks first. Both say their version, which must be the same, and prove that they
// have the same token without sending it (an HMAC of two nonces, one of each side).
// After that the connection is trusted: it is neither encrypted nor signed.
//
// Either side says something five times a second. Who hears nothing for [Config.Patience]
// takes the other for lost: a coordinator goes on without the worker and says so in
// nodes.Stats.Problems, a worker ends its nodes and waits for the next coordinator.
//
// Linux only.
package remote
