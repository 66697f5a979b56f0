package gate

import (
	"errors"
	"testing"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/stretchr/testify/require"
)

var (
	suspend = &actor.SuspendMailbox{}
	resume  = &actor.ResumeMailbox{}
)

// recorder is what a mailbox invokes.
type recorder struct{ got []any }

// InvokeSystemMessage implements actor.MessageInvoker.
func (r *recorder) InvokeSystemMessage(m any) { r.got = append(r.got, "system "+m.(string)) }

// InvokeUserMessage implements actor.MessageInvoker.
func (r *recorder) InvokeUserMessage(m any) {
	if m == "panic" {
		panic(m)
	}
	r.got = append(r.got, m)
}

// EscalateFailure implements actor.MessageInvoker.
func (r *recorder) EscalateFailure(_ any, m any) { r.got = append(r.got, "failed "+m.(string)) }

func TestMailboxRunsWhatAnEndedLoopDoesNot(t *testing.T) {
	m := newMailbox(func(func()) error { return errors.New("ended") })
	inv := &recorder{}
	m.RegisterHandlers(inv, nil)
	m.Start()
	m.PostUserMessage("a")
	m.PostSystemMessage("b")
	require.Equal(t, []any{"a", "system b"}, inv.got)
	require.Zero(t, m.UserMessageCount())
}

func TestMailboxTakesSystemMessagesFirst(t *testing.T) {
	var turns []func()
	m := newMailbox(func(fn func()) error { turns = append(turns, fn); return nil })
	inv := &recorder{}
	m.RegisterHandlers(inv, nil)
	m.PostUserMessage("a")
	m.PostUserMessage("panic")
	m.PostUserMessage("b")
	m.PostSystemMessage("s")
	require.Len(t, turns, 1, "one turn for all of them")
	require.Equal(t, 3, m.UserMessageCount())
	turns[0]()
	require.Equal(t, []any{"system s", "a", "failed panic"}, inv.got)
	require.False(t, m.now("hello"), "suspended")
	m.PostSystemMessage("t")
	turns[1]()
	m.PostUserMessage("c")
	turns[2]()
	require.Equal(t, []any{"system s", "a", "failed panic", "system t"}, inv.got, "user messages wait")
	m.PostSystemMessage(resume)
	turns[3]()
	require.Equal(t, []any{"b", "c"}, inv.got[4:])
	require.True(t, m.now("hello"))
	m.PostSystemMessage(suspend)
	turns[4]()
	require.False(t, m.now("hello"))
}
