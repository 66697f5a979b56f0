// Package steps is what the million does with nodes and servers, wherever those run: it
// connects a part of the nodes and gives each one job, connects the rest, holds them for
// two heartbeats, gives each one job again, cuts some at once, drains, and keeps the
// account.
package steps
