// Package clock makes the clock of a running Go process jump, and of no other: what Go is
// told by CLOCK_REALTIME moves, while CLOCK_MONOTONIC goes on, as when an operator sets
// the time of a host.
//
// Linux has no namespace for that clock, and Go does not ask the C library, so that
// replacing functions of that does nothing. It asks the vDSO, the code that the kernel
// maps into each process. That mapping is private: [Set] writes other code over a
// function in this one process, as a debugger writes a breakpoint. It makes the system
// call and adds the offset. Nothing of the program under test is changed.
//
// What C libraries ask is left as it is: they make deadlines of it for waits on
// CLOCK_REALTIME, which the kernel ends by the true time, so that a shift would make
// them longer, as no jump of a host's clock does. So the timestamps that librdkafka
// puts on records stay true.
//
// It needs root or the right to debug the process, Linux on amd64.
package clock
