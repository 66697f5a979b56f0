// Package record is the form of Roost's Kafka records: jobs in, results out, each
// as msgpack or JSON. docs/RECORDS.md is the contract; this is its Go codec, shared
// by the server, the API, the CLI and the load simulator. It holds no Kafka client.
package record
