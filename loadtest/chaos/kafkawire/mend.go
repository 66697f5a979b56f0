package kafkawire

import (
	"context"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// mender makes good what kfake does not do as a broker should:
//
//   - When an answer to Fetch reaches the size that the client asked for at most, the partition
//     at which it does has no list of aborted transactions, and its reader takes what they left for
//     committed. So requests ask for any size; the limits of their partitions remain.
//   - A group member whose connection ends while it waits for the answer to JoinGroup is
//     never given up, and keeps partitions for ever. So it is made to leave when its session
//     would have ended.
type mender struct {
	mu      sync.Mutex
	members map[string]*groupMember // by member id
	stop    chan struct{}
	done    chan struct{}
	left    int
}

// groupMember is a member of a consumer group that has been heard of.
type groupMember struct {
	group   string
	session time.Duration
	by      *pipe     // its connection; nil: it has ended
	since   time.Time // when it did
}

func (p *Proxy) startMender() error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(p.Addr()), kgo.ClientID("chaos-mender"), kgo.DisableClientMetrics(), kgo.RetryTimeout(5*time.Second))
	if err != nil {
		return err
	}
	p.mender = &mender{members: map[string]*groupMember{}, stop: make(chan struct{}), done: make(chan struct{})}
	go p.mender.run(cl)
	return nil
}

// Mended returns how many group members were made to leave.
func (p *Proxy) Mended() int {
	if p.mender == nil {
		return 0
	}
	p.mender.mu.Lock()
	defer p.mender.mu.Unlock()
	return p.mender.left
}

// Close ends the proxy and its connections.
func (p *Proxy) Close() {
	if m := p.mender; m != nil {
		close(m.stop)
		<-m.done
	}
	p.Proxy.Close()
}

// mended returns what goes to the broker instead of a request's frame.
func (m *mender) mended(a *asked, request kmsg.Request, clientID *string, frame []byte) []byte {
	fetch, ok := request.(*kmsg.FetchRequest)
	if !ok {
		return frame
	}
	fetch.MaxBytes = 1 << 30
	f := kmsg.NewRequestFormatter()
	if clientID != nil {
		f = kmsg.NewRequestFormatter(kmsg.FormatterClientID(*clientID))
	}
	return f.AppendRequest(nil, fetch, a.id)
}

// heard notes a sign of life of a group member.
func (m *mender) heard(by *pipe, request kmsg.Request) {
	group, id := "", ""
	session := time.Duration(0)
	switch r := request.(type) {
	case *kmsg.JoinGroupRequest:
		group, id, session = r.Group, r.MemberID, time.Duration(r.SessionTimeoutMillis)*time.Millisecond
	case *kmsg.HeartbeatRequest:
		group, id = r.Group, r.MemberID
	case *kmsg.SyncGroupRequest:
		group, id = r.Group, r.MemberID
	}
	if id == "" {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.members[id]
	if g == nil {
		if session == 0 {
			return // one that was given up
		}
		g = &groupMember{group: group}
		m.members[id] = g
	}
	if session > 0 {
		g.session = session
	}
	g.by = by
}

// ended notes the end of a connection.
func (m *mender) ended(by *pipe) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, g := range m.members {
		if g.by == by {
			g.by, g.since = nil, time.Now()
		}
	}
}

func (m *mender) run(cl *kgo.Client) {
	defer close(m.done)
	defer cl.Close()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-m.stop:
			return
		case <-tick.C:
		}
		for id, group := range m.overdue() {
			m.leave(cl, id, group)
		}
	}
}

// overdue returns the members whose sessions have to be over, with their groups.
func (m *mender) overdue() map[string]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := map[string]string{}
	for id, g := range m.members {
		if g.by == nil && time.Since(g.since) > g.session+2*time.Second {
			list[id] = g.group
		}
	}
	return list
}

func (m *mender) leave(cl *kgo.Client, id, group string) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group, req.MemberID = group, id
	member := kmsg.NewLeaveGroupRequestMember()
	member.MemberID = id
	req.Members = append(req.Members, member)
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return // the broker is away: again later
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.members, id)
	if resp.ErrorCode == 0 && len(resp.Members) == 1 && resp.Members[0].ErrorCode == 0 {
		m.left++
	}
}
