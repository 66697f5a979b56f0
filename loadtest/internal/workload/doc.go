// Package workload produces jobs to Kafka, consumes their results, and keeps the
// books: which job has its outcome, which is lost, which came twice, and how long each
// took from its produce call to the consumed result record.
//
// Three goroutines share a run: the producer fills slots and produces them, Kafka's
// client calls the promise, and the consumer owns the tally. A [slot] holds one job in
// flight with its record and value, and is used again once the broker has acknowledged
// the job and its outcome has been consumed; so producing allocates nothing.
package workload
