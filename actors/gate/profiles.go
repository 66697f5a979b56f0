package gate

import (
	"strconv"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol"
)

// profiles keeps one copy of each profile for as long as a session has it: a fleet
// has far fewer of them than nodes. It belongs to one event loop.
type profiles struct {
	byKey map[string]*sharedProfile
	keys  map[*actors.Profile]string
	key   []byte
}

type sharedProfile struct {
	profile *actors.Profile
	users   int
}

func newProfiles() *profiles {
	return &profiles{byKey: map[string]*sharedProfile{}, keys: map[*actors.Profile]string{}}
}

// take returns the shared profile that equals the one described.
func (p *profiles) take(a *protocol.Attributes, agent string) *actors.Profile {
	p.key = appendKey(p.key[:0], a, agent)
	if s := p.byKey[string(p.key)]; s != nil {
		s.users++
		return s.profile
	}
	s := &sharedProfile{profile: &actors.Profile{Attributes: *a, Agent: agent}, users: 1}
	key := string(p.key)
	p.byKey[key] = s
	p.keys[s.profile] = key
	return s.profile
}

// drop gives back what take returned.
func (p *profiles) drop(profile *actors.Profile) {
	key, ok := p.keys[profile]
	if !ok {
		return
	}
	s := p.byKey[key]
	if s.users--; s.users == 0 {
		delete(p.byKey, key)
		delete(p.keys, profile)
	}
}

func appendKey(b []byte, a *protocol.Attributes, agent string) []byte {
	add := func(s string) {
		b = strconv.AppendInt(b, int64(len(s)), 10)
		b = append(b, ':')
		b = append(b, s...)
	}
	add(a.Country)
	add(a.City)
	b = strconv.AppendUint(b, uint64(a.ASN), 10)
	b = append(b, ' ')
	add(a.Platform)
	add(agent)
	for _, t := range a.Tags {
		add(t)
	}
	b = append(b, '|')
	for _, k := range a.Kinds {
		add(k)
	}
	return b
}
