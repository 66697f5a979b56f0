// Package tcp holds the nodes' sockets: it accepts, frames, times out, flushes and
// closes. What frames mean is the caller's, through [Handler].
//
// # Goroutines
//
// gnet runs one goroutine for each event loop; a connection belongs to one loop for
// its whole life. Everything of [Conn], and of [LoopHandler], happens on that
// goroutine, so none of it is locked. Other goroutines enter a loop by
// [Loop.Execute] only. One more goroutine ticks the timing wheels and one waits for
// the engine to end; there is no goroutine, timer or channel for a connection.
//
// # Batches
//
// A read event, a run of executed functions, a tick and a close are each one batch.
// What a batch appends to connections leaves with one write for each connection at
// the batch's end; [LoopHandler.Closed] is called then too, never from within
// [Conn.Close], so that a handler is not entered again while it is still running.
//
// # Ends of a connection
//
//	Close           pending frames, CLOSE, half-close, then input is thrown away until
//	                the peer closes or CloseLinger passes. Without that wait, input
//	                that is still unread makes the kernel reset the connection and
//	                the peer may never see the CLOSE.
//	CloseSilently   pending frames, then the socket is closed at once
//	peer, network   the socket is gone already
//
// # Timeouts
//
//	from accept to Establish        HelloTimeout   hello timeout
//	nothing read, once established  idle           heartbeat timeout
//	one frame, once established     FrameTimeout   heartbeat timeout
//	CLOSE taken by the peer         CloseLinger    the socket is cut
//
// The PROXY header, where one is required, has to come within HelloTimeout too. They are
// counted in ticks of the loop's own time, in which a stall of the loop
// counts as one tick; one timing wheel for each loop serves them all.
//
// # Who is not let in
//
//	more than MaxConns, MaxHandshakes, AcceptRate   at accept   overloaded, with retry-after
//	not from ProxyFrom                              at accept   not ready
//	PROXY header missing, of version 1, or wrong    at once     not ready
//	[Server.RefuseWith]: the member drains          at HELLO    what it was given
//	[Server.Stop]                                   at accept   what it was given
//
// A storm is refused at accept, since a connection costs least then. Who is turned away by
// a member that drains is a node, whose HELLO shows it: it is told where else to go. A
// wrong PROXY header is the balancer's mistake, so the node behind it is let come back.
//
// # Non-obvious
//
//   - Every loop has a listening socket of its own (SO_REUSEPORT), because gnet's
//     single acceptor accepts in bursts, ahead of OnOpen: a storm could reach the
//     file limit before one connection was refused, and gnet stops the whole engine
//     when accept fails. With a listener for each loop, accept and OnOpen are one
//     step and the ceiling is exact to within one file for each loop.
//   - SO_REUSEPORT lets a second process of the same user share the port in silence.
//     So the port is first reserved by a socket without it: see reserve.
//   - gnet writes inside Conn.Write, and closes there when that fails: OnClose may
//     come in the middle of a flush.
//   - Nothing is ever left in gnet's own input buffer: those rings come from one pool
//     whatever their size, so a single leftover byte may hold half a megabyte.
package tcp
