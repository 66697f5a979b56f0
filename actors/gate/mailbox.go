package gate

import (
	"sync"

	"github.com/asynkron/protoactor-go/actor"
)

// mailbox runs the gate's actor on its event loop. Messages may be posted from any
// goroutine; those that arrive before the loop comes round cost one Execute
// together. The queue has no bound of its own: shards send no more deliveries than
// they have jobs pending, which is bounded.
type mailbox struct {
	exec    func(func()) error
	drainFn func()
	invoker actor.MessageInvoker

	mu        sync.Mutex
	user      []any // guarded by mu
	system    []any // guarded by mu; taken before user
	scheduled bool  // guarded by mu
	suspended bool  // loop only: failed, waiting for its supervisor
}

func newMailbox(exec func(func()) error) *mailbox {
	m := &mailbox{exec: exec}
	m.drainFn = m.drain
	return m
}

// PostUserMessage implements actor.Mailbox.
func (m *mailbox) PostUserMessage(msg any) { m.post(&m.user, msg) }

// PostSystemMessage implements actor.Mailbox.
func (m *mailbox) PostSystemMessage(msg any) { m.post(&m.system, msg) }

func (m *mailbox) post(queue *[]any, msg any) {
	m.mu.Lock()
	*queue = append(*queue, msg)
	first := !m.scheduled
	m.scheduled = true
	m.mu.Unlock()
	if first {
		m.schedule()
	}
}

// schedule asks the loop for a turn. When the loop has ended, nothing will ever run
// on it again, so the messages are taken here: the gate's actor can still stop.
func (m *mailbox) schedule() {
	if m.exec(m.drainFn) != nil {
		m.drain()
	}
}

// drain runs on the event loop.
func (m *mailbox) drain() {
	for {
		msg, system, ok := m.pop()
		if !ok {
			return
		}
		m.invoke(msg, system)
	}
}

func (m *mailbox) pop() (msg any, system, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case len(m.system) > 0:
		msg, m.system = m.system[0], m.system[1:]
		return msg, true, true
	case len(m.user) > 0 && !m.suspended:
		msg = m.user[0]
		m.user[0] = nil
		m.user = m.user[1:]
		return msg, false, true
	}
	m.scheduled = false
	if len(m.user) == 0 {
		m.user = nil
	}
	m.system = nil
	return nil, false, false
}

func (m *mailbox) invoke(msg any, system bool) {
	defer func() {
		if r := recover(); r != nil {
			m.suspended = true
			m.invoker.EscalateFailure(r, msg)
		}
	}()
	if !system {
		m.invoker.InvokeUserMessage(msg)
		return
	}
	switch msg.(type) {
	case *actor.SuspendMailbox:
		m.suspended = true
	case *actor.ResumeMailbox:
		m.suspended = false
	default:
		m.invoker.InvokeSystemMessage(msg)
	}
}

// now runs the actor at once; the caller is on the event loop. It reports false
// while the actor is suspended.
func (m *mailbox) now(msg any) bool {
	if m.suspended {
		return false
	}
	m.invoke(msg, false)
	return true
}

// RegisterHandlers implements actor.Mailbox.
func (m *mailbox) RegisterHandlers(invoker actor.MessageInvoker, _ actor.Dispatcher) {
	m.invoker = invoker
}

// Start implements actor.Mailbox.
func (m *mailbox) Start() {}

// UserMessageCount implements actor.Mailbox.
func (m *mailbox) UserMessageCount() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.user)
}
