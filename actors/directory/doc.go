// Package directory is the index of the connected nodes that hash to one shard: where
// each one's session is, and which of them to take for a job that names no node but says
// what it should be like.
//
// # Index
//
// Nodes with equal profiles share a variant, and variants that differ only in tags and
// agent share a class: a fleet has far fewer classes than nodes, even when each node has
// a tag of its own. For every country, city, ASN, platform and kind there is a posting,
// the list of its classes; for every tag, the list of its variants. [Directory.Match]
// walks the smaller of the first two postings that narrow the search, or that of the rarest
// tag. So it looks at groups of nodes, and at no more nodes than it chooses.
//
// # Rotation
//
// Every variant and every class keeps its nodes in the order in which they were last
// chosen. A selection takes the spread first (see [Spread]: networks before towns before
// nodes) and, among what the spread leaves open, the node that was chosen longest ago.
// So a node comes again only after every other that fits, and that the spread would have
// allowed in its place, was chosen as well, by whichever search. New nodes, and such as
// were left out as silent, queue at the end: one that reconnects all the time is not
// preferred for it. Nothing depends on chance or on the order of Go's maps.
//
// # Cost
//
// A node takes a record of 72 bytes and an entry in a map by id, about 110 bytes
// together, and in the index its share of the groups: some 10 bytes, as measured with 200,000
// nodes of 2,000 profiles. Its id and profile are held, not copied. When every node has a tag of
// its own, they take about 400 bytes more each; with a city of its own as well, some 1,100
// more. There is an index only while nodes are searched for; the first search makes it.
// A search for a tag that many nodes have is then no better than a look at all of these,
// and so is one for any node when there are as many cities as nodes.
//
// Registering and removing a node take a time that depends on the number of its kinds and tags
// alone; so does choosing one, but for logarithms. Finding the groups that fit takes
// some 20 ns for each on the posting walked.
//
// A Directory is a plain data structure without clock, goroutine or lock: it belongs to
// its shard's actor, and nothing else may call it.
package directory
