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
// range says, with jittered backoff, at most [Config.InFlight] of them opening at a
// time. They answer each JOB at once by a RESULT "ok" whose output is the job's args, which
// [Config.OnJob] may stamp.
// They hold no outbox: results not acknowledged are counted and forgotten with the
// session.
//
// Linux only. Fields of [Fleet] under mu are for any goroutine, all others belong to
// the loop.
package fleet
