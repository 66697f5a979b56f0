package cluster

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/cluster/link"
	"github.com/roost-server/roost/cluster/remote"
	"github.com/roost-server/roost/cluster/view"
)

// later is the carrier of a member of the next version, which has more to say in its hellos
// and beats than this one knows.
type later struct{ carrier }

func (l later) Send(address string, body []byte) {
	var p link.Packet
	if p.Parse(body) != nil || p.Kind != link.KindLoose {
		l.carrier.Send(address, body)
		return
	}
	for b := range p.Bodies() {
		l.carrier.Send(address, link.AppendLoose(nil, p.From, p.To, append(slices.Clone(b), "of a later version"...)))
	}
}

// TestVersionSkew has a member of this version and one of the next, which still speaks this
// one, together, as in a rolling upgrade.
func TestVersionSkew(t *testing.T) {
	old := join(t, "old", nil)
	next := join(t, "next", []string{old.Addr()}, func(c *Config) {
		c.Version, c.minProto, c.maxProto = "2", view.MaxVersion, view.MaxVersion+1
		c.carry = func(rc remote.Config) (carrier, error) {
			r, err := remote.Start(rc)
			return later{r}, err
		}
	})
	for _, pair := range [][2]*node{{old, next}, {next, old}} {
		from, to := pair[0], pair[1]
		from.eventually(func() bool { return len(from.up) == 1 }, "%s does not see the other", from.name)
		epoch := from.Claim(uint32(len(from.name)))
		to.eventually(func() bool { return to.owners[uint32(len(from.name))] != "" }, "the claim of %s is not heard", from.name)
		require.NotZero(t, epoch)
		for i := range uint64(100) {
			require.True(t, from.Send(from.slotOf(to.name), number(i)))
		}
		to.eventually(func() bool { return len(to.got[to.byName[from.name]]) == 100 }, "messages of %s", from.name)
		require.Equal(t, view.MaxVersion, from.Members()[1].Protocol)
	}
	require.Equal(t, "2", old.Members()[1].Version)
}
