package directory

// Spread chooses count of the candidates so that they lie far apart: no ASN is taken
// twice before every ASN among the candidates was taken once, or has none left; and
// within an ASN the same holds for its cities. Each beginning of the result is spread as
// well. The candidates' order decides who goes first: of ASNs, of cities, and of nodes in one
// place. When there are no more candidates than count, they are returned as they are.
func Spread(candidates []Location, count int) []Location {
	if len(candidates) <= max(0, count) {
		return candidates
	}
	if count <= 0 {
		return nil
	}
	p := arrange(candidates)
	chosen := make([]Location, 0, count)
	for len(chosen) < count { // whose turn it was, queues up again while it has one left
		net := p.order.pop(p.afterNet)
		towns := &p.nets[net]
		town := towns.pop(p.afterTown)
		nodes := &p.towns[town]
		chosen = append(chosen, candidates[nodes.pop(p.afterNode)])
		if nodes.first >= 0 {
			towns.push(town, p.afterTown)
		}
		if towns.first >= 0 {
			p.order.push(net, p.afterNet)
		}
	}
	return chosen
}

// places are candidates in queues: of each town, the towns in queues of each ASN, and
// the ASNs in one. All are named by position, and linked by the slices after.
type places struct {
	nets, towns                    []fifo
	order                          fifo
	afterNode, afterTown, afterNet []int32
}

// fifo is a queue; first is -1 when it is empty.
type fifo struct{ first, last int32 }

func (q *fifo) push(i int32, after []int32) {
	after[i] = -1
	if q.first < 0 {
		q.first = i
	} else {
		after[q.last] = i
	}
	q.last = i
}

func (q *fifo) pop(after []int32) int32 {
	i := q.first
	q.first = after[i]
	return i
}

// arrange sorts candidates by ASN and city, in the order of their first ones.
func arrange(candidates []Location) *places {
	type place struct {
		asn  uint32
		city string
	}
	n := len(candidates)
	links := make([]int32, 3*n)
	p := &places{
		nets: make([]fifo, 0, n), towns: make([]fifo, 0, n), order: fifo{first: -1},
		afterNode: links[:n], afterTown: links[n : 2*n], afterNet: links[2*n:],
	}
	nets, towns := make(map[uint32]int32, n), make(map[place]int32, n)
	for i := range candidates {
		profile := candidates[i].Profile
		net, known := nets[profile.ASN]
		if !known {
			net = int32(len(p.nets))
			nets[profile.ASN] = net
			p.nets = append(p.nets, fifo{first: -1})
			p.order.push(net, p.afterNet)
		}
		town, known := towns[place{profile.ASN, profile.City}]
		if !known {
			town = int32(len(p.towns))
			towns[place{profile.ASN, profile.City}] = town
			p.towns = append(p.towns, fifo{first: -1})
			p.nets[net].push(town, p.afterTown)
		}
		p.towns[town].push(int32(i), p.afterNode)
	}
	return p
}
