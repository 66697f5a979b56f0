package view

import (
	"bytes"
	"encoding/hex"
	"testing"

	"github.com/stretchr/testify/require"
)

func someHello() hello {
	return hello{
		cluster: "c", name: "m1", instance: 0x0102030405060708, start: 1_800_000_000_000, address: "10.0.0.1:7946",
		minVer: 1, maxVer: 2, version: "0.4", partitions: 1024, nodes: "10.0.0.1:7733", api: "10.0.0.1:8080",
		to: "m2:7946", via: "m1:7946", session: 7, seen: 8, flags: flagUp, times: times{1, 2, 3},
		refusal: nameTaken, why: "two", rival: 9, rivalStart: 10, state: Serving, addresses: []string{"10.0.0.3:7946", "x:1"},
	}
}

func someBeat() beat {
	return beat{
		from: 7, to: 8, flags: flagGoodbye | flagClaims | flagGossip, times: times{4, 5, 6}, state: Leaving, sockets: 70_000,
		claimsVersion: 3, claimsAck: 2, why: "bye", claims: []claim{{0, 1_800_000_000_000}, {7, 2}, {1023, 3}}, addresses: []string{"x:1"},
	}
}

// The bytes of version 1, which members of later versions have to understand.
func TestGolden(t *testing.T) {
	h := someHello()
	require.Equal(t, "01"+"0163"+"026d31"+"0102030405060708"+"80a0f1c2b134"+"0d31302e302e302e313a37393436"+"01"+"02"+"03302e34"+"8008"+
		"0d31302e302e302e313a37373333"+"0d31302e302e302e313a38303830"+"076d323a37393436"+"076d313a37393436"+
		"0000000000000007"+"0000000000000008"+"01"+"010203"+"05"+"0374776f"+"0000000000000009"+"0a"+"01"+
		"02"+"0d31302e302e302e333a37393436"+"03783a31", hex.EncodeToString(h.append(nil)))
	m := someBeat()
	require.Equal(t, "02"+"0000000000000007"+"0000000000000008"+"1a"+"040506"+"03"+"f0a204"+"03"+"02"+"03627965"+
		"03"+"0080a0f1c2b134"+"0702"+"f80703"+"01"+"03783a31", hex.EncodeToString(m.append(nil)))
}

func TestRoundTripSkipsWhatIsNew(t *testing.T) {
	h := someHello()
	got, err := decodeHello(append(h.append(nil)[1:], "a later version's"...))
	require.NoError(t, err)
	require.Equal(t, h, got)
	m := someBeat()
	gotBeat, err := decodeBeat(append(m.append(nil)[1:], "a later version's"...), 1024, nil)
	require.NoError(t, err)
	require.Equal(t, m, gotBeat)
}

func TestCutShort(t *testing.T) {
	h, m := someHello(), someBeat()
	whole := h.append(nil)[1:]
	for n := range whole {
		_, err := decodeHello(whole[:n])
		require.Error(t, err)
	}
	whole = m.append(nil)[1:]
	for n := range whole {
		_, err := decodeBeat(whole[:n], 1024, nil)
		require.Error(t, err)
	}
	_, err := decodeBeat(m.append(nil)[1:], 1023, nil)
	require.ErrorContains(t, err, "claim 2")
}

func FuzzReceive(f *testing.F) {
	h, m := someHello(), someBeat()
	f.Add(h.append(nil))
	f.Add(m.append(nil))
	f.Add([]byte{3})
	f.Fuzz(func(t *testing.T, b []byte) {
		w := newWorld(t, 1)
		a := w.add(w.config("a", "a:1"))
		_ = a.Receive(a.at(), "", b)
		a.Tick(a.at())
		if len(b) == 0 {
			return
		}
		if h, err := decodeHello(b[1:]); err == nil {
			again, err := decodeHello(h.append(nil)[1:])
			require.NoError(t, err)
			require.Equal(t, h, again)
		}
		if m, err := decodeBeat(b[1:], 64, nil); err == nil && m.flags>>5 == 0 {
			first := m.append(nil)
			again, err := decodeBeat(first[1:], 64, nil)
			require.NoError(t, err)
			require.True(t, bytes.Equal(first, again.append(nil)))
		}
	})
}
