// Package rpc makes calls and streams between members out of messages that arrive in order
// or not at all.
//
// What carries the messages is a [Send] and calls of Message and Down; the end of a member ends
// what is under way with it, so nothing waits for somebody who is gone. Slot 0 is this
// member itself: its calls go the same way, only without leaving.
//
// A body that is longer than [ChunkBytes] travels in chunks. Answers and streams are sent only as
// fast as they are taken (credit), so that a slow reader costs no memory and a long
// answer does not stand in the way of what else goes between two members.
package rpc
