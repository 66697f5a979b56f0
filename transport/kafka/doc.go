// Package kafka is Roost's transport to Apache Kafka: a group consumer with
// back-pressure ([Consumer]), an idempotent producer ([Producer]), the set-up
// and validation of topics ([EnsureTopics]) and a broker inside the process
// for development ([StartEmbedded]).
//
// It is the only package that uses cgo (librdkafka, through
// confluent-kafka-go). It knows nothing of jobs: records go in and come out as
// bytes. Memory that librdkafka holds is outside of GOMEMLIMIT, so every queue
// of it is capped by [Config].
//
// Delivery: the consumer is at least once, for it commits only what the caller
// handed to [Consumer.Commit]. The producer neither loses nor duplicates a
// record while it lives (idempotence, acks=all, no expiry).
package kafka
