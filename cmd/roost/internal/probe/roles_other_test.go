//go:build !linux

package probe

// Network namespaces are Linux's; elsewhere the test binary has one role.
const (
	labRole    = "ROOST_PROBE_LAB"
	roleClient = "client"
)

func playRole(string) int { return 2 }
