// Package e2e tests the roost binary from outside: real processes, real sockets, a
// real broker, ended with real signals. It uses nothing of the server's code. Jobs are
// written and results are read by a plain Kafka client, with values made by hand.
//
// Most tests run on the embedded broker, in a process of its own. Those of the
// contract between Kafka records and outcomes also run on Apache Kafka when
// ROOST_TEST_KAFKA names one as HOST:PORT; with ROOST_REQUIRE_KAFKA=1 its absence is a
// failure. A test that kills the broker runs on the embedded one alone, since the
// other is not the test's to kill.
package e2e
