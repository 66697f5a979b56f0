// Package fleet simulates nodes by the ten thousand: every node of a process is a
// socket on one epoll loop, in one goroutine on one thread, so that the simulator
// takes little of the machine that it shares with the server under test.
//
// A node is a struct of at most [NodeBytes] in one slice. Read and write buffers are
// shared; a node owns bytes only while a frame arrived in part or the kernel would
// not take all of its output. There is no timer for a node either: reconnects wait
// in one heap, and heartbeats are found by a sweep that passes over all nodes four
// times in a heartbeat.
//
// Nodes keep the rules of the protocol: they send something within every heartbeat,
// answer PING, and come back after CLOSE, GOAWAY or a lost connection as the reason's
// range says, with jittered backoff, at most InFlight of them opening at a time. They
// answer each JOB by a RESULT "ok" whose output is the job's args, stamped when the
// configuration says so: at once, or after the time that the args or the configuration
// name. They hold no outbox: jobs that run and results not acknowledged are forgotten
// with the session.
//
// A load test moves them as a [nodes.Group]: it connects them at a rate, cuts their
// sockets, or has some of them stop reading.
//
// Linux only. Fields of [Fleet] under mu are for any goroutine, all others belong to
// the loop.
package fleet
