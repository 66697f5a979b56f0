// Package checker adds up what a Roost cluster did with what was submitted to it. It
// knows docs/RECORDS.md, Kafka and nothing else: it imports no other package of this
// module, so that a mistake of the server's code cannot also be the checker's.
//
// [Watch] follows roost.results and roost.progress while the cluster works; [Check]
// reads every topic from its beginning when it has come to rest, and compares them
// with the log of submissions ([Submission], [Fate]), the nodes' logs of what they ran
// ([Run]), and the watermarks that were seen ([Mark]).
//
// What it counts:
//
//   - lost: an assignment without a result, a record that belongs into roost.dead and
//     is not there, a submission that Kafka acknowledged and does not have;
//   - duplicates: a second result of an assignment, a second dead record of one record;
//   - wrong: everything else that docs/RECORDS.md does not allow.
package checker
