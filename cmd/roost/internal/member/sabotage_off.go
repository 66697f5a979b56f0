//go:build !roost_sabotage

package member

// sabotage does nothing in this build; see sabotage.go.
func sabotage(*committer, string) {}
