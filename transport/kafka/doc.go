// Package kafka is Roost's transport to Apache Kafka: a group consumer with
// back-pressure ([Consumer]), a transactional producer for what the consumer's
// records led to, offsets included ([Transactor]), an idempotent producer for
// what comes from elsewhere ([Producer]), a reader of compacted state
// ([ReadState]), the set-up and validation of topics ([EnsureTopics]) and a
// broker inside the process for development ([StartEmbedded]).
//
// It is the only package that uses cgo (librdkafka, through
// confluent-kafka-go, and beside that where many records go with one call, see
// native.h). It knows nothing of jobs: records go in and come out as bytes.
// Memory that librdkafka holds is outside of GOMEMLIMIT, so every queue of it
// is capped by [Config].
//
// Delivery: the consumer reads what is committed, and commits nothing itself.
// Offsets go into the transactions of a Transactor together with what became of
// the records, with the group metadata of [Consumer.Group]: so records are
// delivered at least once, and what they led to is seen exactly once by readers
// with isolation level read_committed. The Producer neither loses nor
// duplicates a record while it lives (idempotence, acks=all, no expiry).
//
// The order of things when a partition is assigned: [Consumer.StableOffsets]
// tells from where the records have to be read; [ReadState] reads what was
// committed together with that offset; [Consumer.Start] begins the delivery.
package kafka
