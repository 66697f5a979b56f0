package gate

// announceDue is what a gate sends itself when something is announced: it comes after what
// is in the mailbox by then, and is supervised as everything there.
type announceDue struct{}

// announce has a shard told soon of the sessions that concern it. When a member comes or
// goes many shards move at once: all that are announced by messages already in the mailbox
// are served by one walk over the sessions.
func (g *Gate) announce(shard uint32) {
	if shard >= g.cfg.Partitions {
		return
	}
	if g.announced == nil {
		g.announced = make([]bool, g.cfg.Partitions)
		g.door.mailbox.PostUserMessage(announceDue{})
	}
	g.announced[shard] = true
}

// announceAll tells the shards what there is. A gate that was restarted meanwhile has no
// sessions that it has not told of.
func (g *Gate) announceAll() {
	due := g.announced
	g.announced = nil
	if due == nil {
		return
	}
	for _, s := range g.sessions {
		s.Tell(due)
		if due[s.Home] {
			g.register(s)
		}
	}
	g.flush()
}
