// Package remote carries bytes from member to member: unordered across reconnects, at most once, and
// never waiting for a peer. Order, resending and credit are the business of package link above it.
//
// On the wire it is protoactor's remote: the gRPC service remote.Remoting with its connect request
// and message batches, in which each body is a google.protobuf.BytesValue for the PID "link". A
// member of any other making that speaks protoactor can be at the other end (the tests hold one
// against it). The two ends of the stream are this package's own, for protoactor's cannot be made
// safe from outside: its Start panics, and replaces gRPC's global logger while other connections use
// it, a data race as soon as one process holds two members; its writer sleeps two seconds after each
// failed attempt, does not end an attempt that hangs, and queues without bound; its reader indexes
// arrays with numbers from the network, and lets any peer reach, stop and watch every process of the
// actor system. Here there is no actor system to reach: a stream carries bodies for one callback, or
// it ends.
//
// Bounds, for each address that is sent to: [MaxQueueBytes] wait here, one batch is being written
// and gRPC holds at most another; a peer that takes nothing for some seconds loses its connection.
// For each stream that comes in: one message of [MaxBodyBytes] and the flow control window.
package remote
