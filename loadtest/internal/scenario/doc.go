// Package scenario is what a load test does over time, as a small YAML file: phases in
// which nodes connect, jobs come at a rate, sockets are cut, and what has to hold at the
// end. docs/LOADTEST.md is the reference of the format.
//
//	sc, err := scenario.Load("storm", "nodes=2000", "jobs.rate=500") // a built-in one, or a file
//	group, err := fleet.NewGroup(nodes.Spec{Nodes: sc.Nodes, Seed: sc.Seed, ...})
//	tl, err := scenario.Run(ctx, sc, scenario.Env{Group: group, Spec: spec, Brokers: ...})
//
// [Run] keeps the books of every assignment from one end to the other; what a server did
// not keep is in Timeline.Problems.
package scenario
