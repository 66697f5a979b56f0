//go:build linux && !race

package e2e

// raceEnabled tells whether the tests run with the race detector.
const raceEnabled = false
