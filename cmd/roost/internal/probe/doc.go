// Package probe holds the job kinds of a measuring node: http, tcp, udp, dns, ping and traceroute.
//
// Each kind takes arguments that came over the network, measures one target, and says whether the
// check holds. A kind never dials an address that it has not checked: unless [Options.AllowPrivate]
// is set, the concrete address (after resolution, for every redirect and every fallback address) has
// to be a public unicast one, and not one of this machine's own. That keeps whoever may submit jobs
// from reading the network behind the node.
//
// [Kinds] returns what this process can run here; ping and traceroute need sockets that not every
// process may open, which is tried at start and not found out by the first job.
//
// All kinds may run at the same time and from any goroutine. They end promptly when their context
// ends, leave no goroutine and no socket behind, and read, keep and report at most what limits.go
// allows.
package probe
