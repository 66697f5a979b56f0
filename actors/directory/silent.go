package directory

// silence is how long a node is left out of selections.
type silence struct {
	untilMs int64
	node    uint32
}

// Silent leaves a connected node out of selections until a Unix time in milliseconds, or
// until [Directory.Answered] or a new session: it did not answer its last attempt. Of two
// times the later one holds. What is not connected is ignored.
func (d *Directory) Silent(node string, untilMs int64) {
	h, ok := d.byID[node]
	if !ok {
		return
	}
	n := d.nodes.at(h)
	if n.silent > 0 {
		i := int(n.silent - 1)
		d.silences[i].untilMs = max(d.silences[i].untilMs, untilMs)
		d.silenceDown(i)
		return
	}
	d.unqueue(h)
	n.countSilent(1)
	d.silences = append(d.silences, silence{untilMs: untilMs, node: h})
	n.silent = uint32(len(d.silences))
	d.silenceUp(len(d.silences) - 1)
}

// countSilent changes how many silent nodes the groups of a node count.
func (n *node) countSilent(by int32) {
	if n.variant != nil {
		n.variant.silent += uint32(by)
		n.variant.class.silent += uint32(by)
	}
}

// Answered ends a node's silence.
func (d *Directory) Answered(node string) {
	if h, ok := d.byID[node]; ok {
		d.wake(h)
	}
}

// wake ends the silence of a node, if it is silent.
func (d *Directory) wake(h uint32) {
	n := d.nodes.at(h)
	if n.silent == 0 {
		return
	}
	d.removeSilence(int(n.silent - 1))
	n.countSilent(-1)
	d.queue(h)
}

// wakeDue ends the silences that are over.
func (d *Directory) wakeDue(nowMs int64) {
	for len(d.silences) > 0 && d.silences[0].untilMs <= nowMs {
		d.wake(d.silences[0].node)
	}
}

// removeSilence takes one out of the heap; the groups still count the node as silent.
func (d *Directory) removeSilence(i int) {
	last := len(d.silences) - 1
	d.nodes.at(d.silences[i].node).silent = 0
	moved := d.silences[last]
	d.silences = d.silences[:last]
	if i == last {
		return
	}
	d.silences[i] = moved
	d.nodes.at(moved.node).silent = uint32(i + 1)
	d.silenceDown(i)
	d.silenceUp(i)
}

// silenceLess orders the heap; of equal times the node goes first that was chosen first.
func (d *Directory) silenceLess(i, j int) bool {
	a, b := &d.silences[i], &d.silences[j]
	if a.untilMs != b.untilMs {
		return a.untilMs < b.untilMs
	}
	return d.nodes.at(a.node).stamp < d.nodes.at(b.node).stamp
}

func (d *Directory) silenceSwap(i, j int) {
	s := d.silences
	s[i], s[j] = s[j], s[i]
	d.nodes.at(s[i].node).silent = uint32(i + 1)
	d.nodes.at(s[j].node).silent = uint32(j + 1)
}

func (d *Directory) silenceUp(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !d.silenceLess(i, parent) {
			return
		}
		d.silenceSwap(i, parent)
		i = parent
	}
}

func (d *Directory) silenceDown(i int) {
	for {
		child := 2*i + 1
		if child >= len(d.silences) {
			return
		}
		if child+1 < len(d.silences) && d.silenceLess(child+1, child) {
			child++
		}
		if !d.silenceLess(child, i) {
			return
		}
		d.silenceSwap(i, child)
		i = child
	}
}
