// Package netlab makes hosts out of Linux network namespaces, for tests of a cluster on
// one machine: each has an address of its own on one bridge, and what lies between a
// host and the bridge can be made slow, lossy, or deaf in one direction.
//
// The bridge lives in a namespace as well, so nothing of it shows in the machine's own
// network, and nothing can get in its way there. Names begin with [Prefix] and the id of
// the process that made them: [Sweep] removes those whose process is gone.
//
// A connection is impaired by a [Wire]: a program that carries the host's frames to the
// bridge and back, since kernels without the netem queueing discipline have nothing of
// their own that delays packets. Everything is per packet, below TCP.
//
// It needs root, the program ip of iproute2, /dev/net/tun, and a kernel with bridges and
// veth. Linux only.
package netlab
