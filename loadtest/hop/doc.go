//go:build linux

// Command hop is Roost's hop without Kafka: a job goes in at its shard, and its result
// comes out there. It exists to be measured beside servers that have no Kafka either; see
// loadtest/peers.
//
// In the path, as in "roost serve": the transport with its event loops, limits, timing
// wheel and framing; the wire protocol; gate and session actors; shard actors with their
// whole ledger (parsing of records, known ids, deadlines, directory, encoding of results,
// cuts); the supervision tree; heartbeats; the collection once a fleet has settled.
//
// Not in the path: Kafka and all that speaks to it (consumer, transactor, restorer, the
// topics' records of shards' state), other members, the way of results over the member's
// parking, traces, metrics and the HTTP API. In Kafka's place is one TCP connection, the
// dispatcher's. What is read from it at once is one allocation, where Kafka's client makes
// several for each record. Shards are cut as the committer cuts them, only sooner
// (-cut-interval, -cut-outcomes), and a cut counts as committed once its results are handed
// to the kernel.
//
// Without Kafka nothing is recorded, so nodes are not told that it is: RESULT_ACK is left
// out, unless -acks is given. A node's answer is one frame to the node and one back, as
// with the servers beside it.
//
// # The dispatcher's frames
//
// Integers are big endian. To the server: 4 bytes length of what follows, 4 bytes
// partition, 2 bytes length of the key, the key, and a job record as msgpack. From the
// server: 4 bytes length, and a result record. There is one dispatcher at a time; when it
// leaves, results of what it had sent are dropped.
//
// Standard output has one line when the program listens:
//
//	listening nodes=HOST:PORT dispatcher=HOST:PORT partitions=N
package main
