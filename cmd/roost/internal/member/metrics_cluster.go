package member

var (
	descLeaving    = desc("sessions_leaving", "Nodes that were told to go to another member and are still here.", nil)
	descDrained    = desc("sessions_drained_total", "Nodes that went after they were told to.", nil)
	descOverstayed = desc("sessions_overstayed_total", "Nodes that were closed because they did not go in time.", nil)
	descRefusedBy  = desc("connections_refused_by_cause_total", "Sockets refused at accept, by cause.", []string{"cause"})

	descMembers     = desc("cluster_members", "Members that are known, this one included, by state.", []string{"state"})
	descPeerQueue   = desc("cluster_queued_bytes", "Bytes that a member has not acknowledged.", []string{"peer"})
	descPeerResent  = desc("cluster_resent_total", "Messages that had to be sent to a member again, since it is up.", []string{"peer"})
	descPeerClock   = desc("cluster_clock_offset_seconds", "A member's clock less this one's.", []string{"peer"})
	descUnowned     = desc("cluster_partitions_unowned", "Partitions of which no member is known that has them.", nil)
	descCertificate = desc("cluster_certificate_expiry_seconds", "Unix time when this member's certificate expires; absent without one.", nil)
	descSentAway    = desc("cluster_batches_sent_total", "Batches sent to other members, by whom they are for.", []string{"to"})
	descTaken       = desc("cluster_batches_received_total", "Batches of other members that shards here took.", nil)
	descStale       = desc("cluster_batches_stale_total", "Batches of other members that were for, or from, a life of a shard that is over.", nil)
	descReturned    = desc("cluster_deliveries_returned_total", "Deliveries that could not be sent to another member, and went back to their shard.", nil)
	descMalformed   = desc("cluster_malformed_total", "Messages of other members that could not be read.", nil)
	descDraining    = desc("draining", "1 while this member is drained.", nil)
)

// cluster tells of the other members. Their names are labels: there are few.
func (x *metrics) cluster(c sink) {
	g, net := x.m.gateStats, x.m.server.Stats()
	c.gauge(descLeaving, float64(g.Leaving.Load()))
	c.counter(descDrained, float64(g.Drained.Load()))
	c.counter(descOverstayed, float64(g.Overstayed.Load()))
	for cause, n := range map[string]uint64{"full": net.RefusedFull, "handshakes": net.RefusedHandshakes, "rate": net.RefusedRate,
		"drain": net.RefusedDrain, "peer": net.RefusedPeer, "proxy": net.ProxyErrors} {
		c.counter(descRefusedBy, float64(n), cause)
	}
	c.gauge(descDraining, truth(x.m.mover != nil && x.m.mover.view() != nil))
	r := &x.m.routing.stats
	c.counter(descSentAway, float64(r.toGates.Load()), "gate")
	c.counter(descSentAway, float64(r.toShards.Load()), "shard")
	c.counter(descSentAway, float64(r.toPeers.Load()), "peer shard")
	c.counter(descTaken, float64(r.taken.Load()))
	c.counter(descStale, float64(r.stale.Load()+r.refused.Load()))
	c.counter(descReturned, float64(r.returned.Load()))
	c.counter(descMalformed, float64(r.malformed.Load()))
	unowned := 0
	for p := range x.m.routing.own {
		if _, _, known := x.m.routing.Owner(uint32(p)); !known {
			unowned++
		}
	}
	c.gauge(descUnowned, float64(unowned))
	states := map[string]int{"up": 1, "down": 0, "refused": 0}
	if x.m.cluster != nil && x.m.cluster.cluster != nil {
		for _, o := range x.m.cluster.cluster.Members()[1:] {
			switch o.Status {
			case "up":
				states["up"]++
				c.gauge(descPeerQueue, float64(o.QueuedBytes), o.Name)
				c.counter(descPeerResent, float64(o.Resent), o.Name)
				c.gauge(descPeerClock, o.ClockOffset.Seconds(), o.Name)
			case "refused":
				states["refused"]++
			default:
				states["down"]++
			}
		}
		if s := x.m.cluster.certs; s != nil {
			c.gauge(descCertificate, float64(s.NotAfter().Unix()))
		}
	}
	for state, n := range states {
		c.gauge(descMembers, float64(n), state)
	}
}
