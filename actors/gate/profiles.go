package gate

import (
	"hash/maphash"
	"slices"
	"sync"
	"unique"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol"
)

// Profiles keeps one copy of each profile for as long as a session has it, and one of
// each text and list within them: a fleet has far fewer of them than nodes. The gates of
// a member share it; any goroutine may use it.
type Profiles struct {
	mu     sync.Mutex // guards the rest
	seed   maphash.Seed
	byHash map[uint64]*sharedProfile
	lists  map[string][]string
	key    []byte
}

// sharedProfile is one profile and how many sessions have it; next is another one
// with the same hash.
type sharedProfile struct {
	profile actors.Profile
	users   int
	next    *sharedProfile
}

// maxLists bounds the lists that are remembered; beyond it they are forgotten and
// learned anew.
const maxLists = 4096

// NewProfiles returns an empty store.
func NewProfiles() *Profiles {
	return &Profiles{seed: maphash.MakeSeed(), byHash: map[uint64]*sharedProfile{}, lists: map[string][]string{}}
}

// take returns the shared profile that equals the one described.
func (p *Profiles) take(a *protocol.Attributes, agent string) *actors.Profile {
	want := actors.Profile{Attributes: *a, Agent: agent}
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.hash(&want)
	for s := p.byHash[h]; s != nil; s = s.next {
		if equal(&s.profile, &want) {
			s.users++
			return &s.profile
		}
	}
	s := &sharedProfile{users: 1, next: p.byHash[h], profile: actors.Profile{
		Agent: intern(agent),
		Attributes: protocol.Attributes{
			Country: intern(a.Country), City: intern(a.City), ASN: a.ASN, Platform: intern(a.Platform),
			Tags: p.list(a.Tags), Kinds: p.list(a.Kinds),
		},
	}}
	p.byHash[h] = s
	return &s.profile
}

// drop gives back what take returned.
func (p *Profiles) drop(profile *actors.Profile) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.hash(profile)
	var before *sharedProfile
	for s := p.byHash[h]; s != nil; before, s = s, s.next {
		if &s.profile != profile {
			continue
		}
		if s.users--; s.users > 0 {
			return
		}
		switch {
		case before != nil:
			before.next = s.next
		case s.next != nil:
			p.byHash[h] = s.next
		default:
			delete(p.byHash, h)
		}
		return
	}
}

func (p *Profiles) hash(x *actors.Profile) uint64 {
	b := append(p.key[:0], x.Country...)
	b = append(append(b, 0), x.City...)
	b = append(b, 0, byte(x.ASN), byte(x.ASN>>8), byte(x.ASN>>16), byte(x.ASN>>24))
	b = append(b, x.Platform...)
	b = append(append(b, 0), x.Agent...)
	b = appendList(b, x.Tags)
	p.key = appendList(append(b, 0), x.Kinds)
	return maphash.Bytes(p.seed, p.key)
}

func appendList(b []byte, list []string) []byte {
	for _, s := range list {
		b = append(append(b, 0), s...)
	}
	return b
}

func equal(x, y *actors.Profile) bool {
	return x.Country == y.Country && x.City == y.City && x.ASN == y.ASN && x.Platform == y.Platform &&
		x.Agent == y.Agent && slices.Equal(x.Tags, y.Tags) && slices.Equal(x.Kinds, y.Kinds)
}

func intern(s string) string { return unique.Make(s).Value() }

// list returns one copy of equal lists.
func (p *Profiles) list(l []string) []string {
	if len(l) == 0 {
		return nil
	}
	p.key = appendList(p.key[:0], l)
	if known, ok := p.lists[string(p.key)]; ok && slices.Equal(known, l) {
		return known
	}
	if len(p.lists) >= maxLists {
		clear(p.lists)
	}
	own := make([]string, len(l))
	for i := range l {
		own[i] = intern(l[i])
	}
	p.lists[string(p.key)] = own
	return own
}
