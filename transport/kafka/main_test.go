package kafka

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// childEnv, when set, makes the test binary a broker or producer process for
// the tests that kill one; see crash_test.go.
const childEnv = "ROOST_KAFKA_TEST_CHILD"

func TestMain(m *testing.M) {
	if role := os.Getenv(childEnv); role != "" {
		os.Exit(runChild(role))
	}
	if os.Getenv("ROOST_REQUIRE_KAFKA") == "1" && os.Getenv("ROOST_TEST_KAFKA") == "" {
		fmt.Fprintln(os.Stderr, "ROOST_REQUIRE_KAFKA=1, but ROOST_TEST_KAFKA (host:port of an Apache Kafka) is not set; start one with deploy/kafka/kafka.sh")
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}
