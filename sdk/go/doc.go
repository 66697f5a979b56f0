// Package roost is the SDK for a node: a program that dials a Roost member, takes
// jobs over that one connection, runs them and reports each result.
//
// A [Client] is made with [New], is given a [Handler] for each job kind with
// [Client.Handle], and works in [Client.Run] until its context ends or a member
// says that this node must not come back (a [*CloseError]).
//
// # What is guaranteed
//
// A job is delivered at least once. The client drops duplicates that it can know
// of: of a job that waits or runs, of one whose result it still holds, and of the
// last [Config.Recent] small results that were acknowledged. A job whose result the
// client no longer has (it crashed while running, or it finished long ago) is run
// again, so handlers should be idempotent; [Job.ID] is the key for that.
//
// A result is put into the [Outbox] before it is sent, and stays there until a
// member says that it is recorded. It is sent again on every new connection until
// then. With a [FileOutbox] this holds over crashes of the process and the machine.
//
// A newer attempt of a job that is waiting replaces it; of a job that is running
// waits for its end. A result of ok or failed answers newer attempts too, and then
// carries their number; after refused, timeout or cancelled a newer attempt is run,
// and never beside an older one. See protocol/SPEC.md, section 7.
//
// # Goroutines
//
//	Run        dials, reconnects, supervises one connection, drains
//	reader     one for each connection: frames in, jobs to the queue
//	writer     one for each connection: everything queued in one write; heartbeats
//	handler    one for each running job
//	expiry     one, briefly, for a job whose context ended before its handler did
//
// [Config.OnEvent] is called on any of them and must not block. No lock is held
// during a call of user code: a Handler, OnEvent, Credential, Prove, Dial or Outbox.
package roost
