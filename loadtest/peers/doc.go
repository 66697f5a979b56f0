//go:build linux

// Command peers puts the same small piece of work on Roost and on what could be picked
// instead of it, in one run on one machine: hold N connections of nodes, push a job of 128
// bytes from a dispatcher to a node, and get its result back at the dispatcher.
//
//	make peers                            # all of them, 15,000 nodes and 2,000
//	make peers PEERS="mosquitto gnetraw hop" NODES=5000 WINDOW=500
//
// One epoll loop is all the nodes and the dispatcher. It keeps a window of jobs under way,
// each to the next node in a fixed order, and checks of each result that it is of a job
// that is out, unchanged. Server and load share the processors: compare rows of one run.
//
// What is measured is the server's process alone: growth of its resident memory by idle
// node, processor time by connection and by job; and from outside connections a second
// until they are subscribed or authenticated, jobs a second, and the time from job to
// result. The peers take turns in each of --rounds, and the median is shown.
//
// The folder is a module of its own, so that brokers written in Go are no dependencies of
// the server.
package main
