// Package workload produces jobs to Kafka, consumes their results, and keeps the
// books: which assignment has its outcome, which is lost, which came twice, and how long
// each took from its produce call to the consumed result record. A [Load] lasts for a
// whole test, in which streams of jobs come and go; [Run] is one with one stream.
//
// Each stream has a goroutine that fills slots and produces them, Kafka's client calls
// the promise, and the consumer owns the tally. A slot holds one job in flight with its
// record and value, and is used again once the broker has acknowledged the job and all
// its outcomes have been consumed; so producing allocates nothing. Assignments are
// numbered: a job has as many numbers as targets, one after the other, and the first is
// in its id.
package workload
