package tcp

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(serveIdle())
	}
	// gnet's pool of goroutines starts with the process and stays.
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent())
}
