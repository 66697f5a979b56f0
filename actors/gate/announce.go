package gate

// announce has a shard told soon of the sessions that concern it. When a member comes or
// goes many shards move at once: all that were announced before the loop comes round again are
// served by one walk over the sessions.
func (g *Gate) announce(shard uint32) {
	if shard >= g.cfg.Partitions {
		return
	}
	if g.announced != nil {
		g.announced[shard] = true
		return
	}
	g.announced = make([]bool, g.cfg.Partitions)
	g.announced[shard] = true
	if g.door.loop.Execute(g.announceDue) != nil {
		g.announced = nil // the loop has ended, and all sessions with it
	}
}

// announceDue tells the shards what there is. A gate that was restarted meanwhile has no
// sessions any more.
func (g *Gate) announceDue() {
	due := g.announced
	g.announced = nil
	if g.door.gate != g {
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
