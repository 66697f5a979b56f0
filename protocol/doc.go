// Package protocol is the wire between a node and a Roost member, version 1.
//
// SPEC.md is the contract; this package is its Go codec and is shared by the
// server, the Go SDK and the load simulator. It holds no sockets, clocks or
// goroutines: bytes in, messages out, and back.
//
// A connection starts with [Preface] from the node, then both sides send frames:
// a header of [HeaderBytes] (length and type) and a msgpack array as the body.
// [NextFrame] finds frames in a read buffer without copying, a [Decoder] turns a
// body into a message and an [Encoder] appends a message as a frame. Both are
// owned by one goroutine (on the server: by one event loop) and allocate nothing
// for the messages of the hot path.
//
// Nothing here trusts its input: every body is scanned once, linearly and without
// recursion, before anything is decoded (see [Scan]).
package protocol
