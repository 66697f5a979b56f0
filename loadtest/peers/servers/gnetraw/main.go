// Command gnetraw is the hop on bare gnet: one event loop and one map, no actors and no
// checks. It is the floor that a server with work to do is compared with.
//
// Its frames are those of goroutines, in the folder beside this one.
package main

import (
	"encoding/binary"
	"flag"
	"log"

	"github.com/panjf2000/gnet/v2"
)

// hop belongs to its only event loop.
type hop struct {
	gnet.BuiltinEventEngine
	nodes      map[uint64]gnet.Conn
	dispatcher gnet.Conn
	touched    []gnet.Conn // with something in out
	out        map[gnet.Conn]*[]byte
	spare      []*[]byte
}

// OnTraffic takes all whole frames that are there, then writes once to each connection
// that got something.
func (h *hop) OnTraffic(c gnet.Conn) gnet.Action {
	in, err := c.Peek(-1)
	if err != nil {
		return gnet.Close
	}
	used := 0
	for len(in)-used >= 4 {
		size := int(binary.BigEndian.Uint32(in[used:]))
		if len(in)-used-4 < size || size == 0 {
			break
		}
		h.frame(c, in[used+4:used+4+size])
		used += 4 + size
	}
	if _, err := c.Discard(used); err != nil {
		return gnet.Close
	}
	for _, to := range h.touched {
		out := h.out[to]
		delete(h.out, to)
		_, _ = to.Write(*out)
		*out = (*out)[:0]
		h.spare = append(h.spare, out)
	}
	h.touched = h.touched[:0]
	return gnet.None
}

func (h *hop) frame(c gnet.Conn, body []byte) {
	switch kind, rest := body[0], body[1:]; kind {
	case 'N':
		h.nodes[binary.BigEndian.Uint64(rest)] = c
		h.say(c, 'O', nil)
	case 'D':
		h.dispatcher = c
		h.say(c, 'O', nil)
	case 'J':
		if node := h.nodes[binary.BigEndian.Uint64(rest)]; node != nil {
			h.say(node, 'J', rest[8:])
		}
	case 'R':
		if h.dispatcher != nil {
			h.say(h.dispatcher, 'R', rest)
		}
	}
}

func (h *hop) say(to gnet.Conn, kind byte, payload []byte) {
	out := h.out[to]
	if out == nil {
		if n := len(h.spare); n > 0 {
			out, h.spare = h.spare[n-1], h.spare[:n-1]
		} else {
			out = new([]byte)
		}
		h.out[to] = out
		h.touched = append(h.touched, to)
	}
	b := binary.BigEndian.AppendUint32(*out, uint32(1+len(payload)))
	*out = append(append(b, kind), payload...)
}

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "HOST:PORT")
	flag.Parse()
	h := &hop{nodes: map[uint64]gnet.Conn{}, out: map[gnet.Conn]*[]byte{}}
	log.Fatal(gnet.Run(h, "tcp://"+*listen, gnet.WithNumEventLoop(1), gnet.WithTCPNoDelay(gnet.TCPNoDelay)))
}
