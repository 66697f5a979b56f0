// Package kafkawire is trouble between Kafka's clients and a broker: a proxy that knows
// the frames of Kafka's protocol. It tells clients its own address as the broker's, so
// that all of them come through it. Requests of chosen kinds are answered with errors,
// answered late, or lose their connection before or after the broker has done them; and
// connections are cut and stalled as those of any proxy.
package kafkawire

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/roost-server/roost/loadtest/chaos/proxy"
)

// Proxy stands before one broker.
type Proxy struct {
	*proxy.Proxy
	host   string
	port   int32
	mender *mender // nil: the broker is left as it is

	mu   sync.Mutex
	list []*planned
}

// Trouble is what happens to the next requests of a kind.
type Trouble struct {
	Key    kmsg.Key // of the requests
	Count  int      // how many are hit
	Within time.Duration
	Do     Deed
	Code   int16         // of Answer and AnswerLater
	Delay  time.Duration // of Late
}

// Deed is a sort of trouble.
type Deed uint8

// The deeds.
const (
	Answer      Deed = iota // with an error; the broker does not see the request
	AnswerAfter             // with an error, though the broker has done it
	DropBefore              // the connection ends, and the broker does not see the request
	DropAfter               // the connection ends when the broker has done it
	Late                    // the answer comes later
)

type planned struct {
	Trouble
	until time.Time
}

// New listens on a loopback port. Connections are refused until there is a target. With
// mend it makes good what kfake does wrong as a broker.
func New(mend bool) (*Proxy, error) { return Listen("127.0.0.1:0", mend) }

// Listen is [New] at an address, which the clients of other hosts may reach.
func Listen(addr string, mend bool) (*Proxy, error) {
	p := &Proxy{}
	var err error
	if p.Proxy, err = proxy.Listen(addr, func() proxy.Pipe { return newPipe(p) }); err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(p.Addr())
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseInt(port, 10, 32)
	p.host, p.port = host, int32(n)
	if mend && err == nil {
		err = p.startMender()
	}
	return p, err
}

// Add plans trouble.
func (p *Proxy) Add(t Trouble) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = append(p.list, &planned{t, time.Now().Add(t.Within)})
}

// Heal drops what is planned.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = nil
}

// hit returns the trouble of a request, or nil.
func (p *Proxy) hit(key kmsg.Key) *planned {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.list = slices.DeleteFunc(p.list, func(t *planned) bool { return t.Count <= 0 || now.After(t.until) })
	for _, t := range p.list {
		if t.Key == key {
			t.Count--
			return t
		}
	}
	return nil
}

// pipe carries one connection. Answers have the order of their requests, also those
// that the broker has not seen.
type pipe struct {
	proxy *Proxy
	asked chan *asked
	gone  chan struct{} // closed when nothing is answered any more
}

// asked is a request whose answer is due.
type asked struct {
	id      int32
	request kmsg.Request // where it has to be known, else nil
	trouble *planned     // nil: none
}

// maxAsked is how many requests a connection may have under way: more than any client.
const maxAsked = 1 << 16

// maxFrame is what Kafka takes as a request at most, unless told otherwise.
const maxFrame = 100 << 20

func newPipe(p *Proxy) *pipe {
	return &pipe{proxy: p, asked: make(chan *asked, maxAsked), gone: make(chan struct{})}
}

// Up implements proxy.Pipe.
func (p *pipe) Up(to io.Writer, from io.Reader) {
	defer close(p.asked)
	in := bufio.NewReaderSize(from, 32<<10)
	for {
		frame, err := readFrame(in, 8)
		if err != nil {
			return
		}
		a, answered := p.look(&frame)
		if a.trouble != nil && a.trouble.Do == DropBefore {
			return
		}
		if answered {
			select {
			case p.asked <- a:
			case <-p.gone:
				return
			}
		}
		if a.trouble != nil && a.trouble.Do == Answer {
			continue
		}
		if _, err := to.Write(frame); err != nil {
			return
		}
	}
}

// look reads the head of a request, and all of it where that matters; it may replace
// the frame. It reports whether there will be an answer.
func (p *pipe) look(frame *[]byte) (a *asked, answered bool) {
	r := kbin.Reader{Src: (*frame)[4:]}
	key, version := kmsg.Key(r.Int16()), r.Int16()
	a = &asked{id: r.Int32(), trouble: p.proxy.hit(key)}
	mend := p.proxy.mender != nil && (key == kmsg.Fetch || key == kmsg.JoinGroup || key == kmsg.SyncGroup || key == kmsg.Heartbeat)
	if a.trouble == nil && !mend && !namesBrokers(key) && key != kmsg.Produce {
		return a, true
	}
	request := kmsg.RequestForKey(int16(key))
	if request == nil {
		a.trouble = nil
		return a, true
	}
	request.SetVersion(version)
	clientID := r.NullableString()
	if request.IsFlexible() {
		kmsg.SkipTags(&r)
	}
	if request.ReadFrom(r.Src) != nil {
		a.trouble = nil // the broker will say so
		return a, true
	}
	a.request = request
	if mend {
		p.proxy.mender.heard(p, request)
		*frame = p.proxy.mender.mended(a, request, clientID, *frame)
	}
	if a.trouble != nil && a.trouble.Do <= AnswerAfter && failed(request, a.trouble.Code) == nil {
		a.trouble = nil // there is nothing in it that could fail
	}
	if produce, ok := request.(*kmsg.ProduceRequest); ok && produce.Acks == 0 {
		return a, false
	}
	return a, true
}

// Down implements proxy.Pipe.
func (p *pipe) Down(to io.Writer, from io.Reader) {
	defer close(p.gone)
	if m := p.proxy.mender; m != nil {
		defer m.ended(p)
	}
	in := bufio.NewReaderSize(from, 32<<10)
	for a := range p.asked {
		t := a.trouble
		if t != nil && t.Do == Answer {
			if _, err := to.Write(response(a, failed(a.request, t.Code))); err != nil {
				return
			}
			continue
		}
		frame, err := readFrame(in, 4)
		if err != nil || int32(binary.BigEndian.Uint32(frame[4:])) != a.id {
			return
		}
		switch {
		case t == nil:
		case t.Do == DropAfter:
			return
		case t.Do == Late:
			time.Sleep(t.Delay)
		case t.Do == AnswerAfter:
			frame = response(a, failed(a.request, t.Code))
		}
		if a.request != nil && namesBrokers(kmsg.Key(a.request.Key())) {
			frame = p.rename(a, frame)
		}
		if _, err := to.Write(frame); err != nil {
			return
		}
	}
}

// readFrame returns a frame with its length in front; one that is shorter than least
// is an error.
func readFrame(in *bufio.Reader, least uint32) ([]byte, error) {
	head, err := in.Peek(4)
	if err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head)
	if n < least || n > maxFrame {
		return nil, io.ErrUnexpectedEOF
	}
	frame := make([]byte, 4+n)
	_, err = io.ReadFull(in, frame)
	return frame, err
}

// namesBrokers tells which answers have addresses that clients connect to.
func namesBrokers(key kmsg.Key) bool {
	return key == kmsg.Metadata || key == kmsg.FindCoordinator || key == kmsg.DescribeCluster
}

// rename has an answer name the proxy instead of the broker.
func (p *pipe) rename(a *asked, frame []byte) []byte {
	resp := a.request.ResponseKind()
	resp.SetVersion(a.request.GetVersion())
	body := kbin.Reader{Src: frame[8:]}
	if flexibleHead(resp) {
		kmsg.SkipTags(&body)
	}
	if resp.ReadFrom(body.Src) != nil {
		return frame
	}
	host, port := p.proxy.host, p.proxy.port
	switch r := resp.(type) {
	case *kmsg.MetadataResponse:
		for i := range r.Brokers {
			r.Brokers[i].Host, r.Brokers[i].Port = host, port
		}
	case *kmsg.DescribeClusterResponse:
		for i := range r.Brokers {
			r.Brokers[i].Host, r.Brokers[i].Port = host, port
		}
	case *kmsg.FindCoordinatorResponse:
		if r.ErrorCode == 0 {
			r.Host, r.Port = host, port
		}
		for i := range r.Coordinators {
			if r.Coordinators[i].ErrorCode == 0 {
				r.Coordinators[i].Host, r.Coordinators[i].Port = host, port
			}
		}
	}
	return response(a, resp)
}

func flexibleHead(r kmsg.Response) bool {
	return r.IsFlexible() && kmsg.Key(r.Key()) != kmsg.ApiVersions
}

// response encodes an answer as a frame.
func response(a *asked, r kmsg.Response) []byte {
	b := make([]byte, 8, 256)
	if flexibleHead(r) {
		b = append(b, 0)
	}
	b = r.AppendTo(b)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	binary.BigEndian.PutUint32(b[4:], uint32(a.id))
	return b
}
