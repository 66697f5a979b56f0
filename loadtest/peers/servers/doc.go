// Package servers holds the servers that are put beside Roost and are not installed as
// programs of their own: a main package each, or an Erlang application.
package servers

import "embed"

// Erlang is the source of the Erlang server.
//
//go:embed erlang/*.erl
var Erlang embed.FS
