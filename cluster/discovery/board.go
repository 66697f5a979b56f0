package discovery

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Board is a place where members write their addresses for one another: a topic of Kafka.
type Board interface {
	// Publish writes, or writes again, the address of a member; it returns when the board
	// has it, or when ctx ends.
	Publish(ctx context.Context, name, address string) error
	// Withdraw removes the entry of a member.
	Withdraw(ctx context.Context, name string) error
	// Watch calls changed with all entries that are fresh, by name, once it has read the
	// board and then whenever they change; the map is the callee's. It blocks until ctx
	// ends, or the board cannot be read any more.
	Watch(ctx context.Context, changed func(entries map[string]string)) error
}

const (
	// PublishInterval is how often a member writes its entry again.
	PublishInterval = 30 * time.Second
	// StaleAfter is when a Board ignores an entry that was not written again: after three
	// that were missed, and some.
	StaleAfter = 2 * time.Minute
	// publishTimeout bounds one writing; Kafka's client retries within.
	publishTimeout = 20 * time.Second
	// withdrawTimeout bounds the removal at the end: who finds a stale entry only dials in
	// vain.
	withdrawTimeout = 3 * time.Second
)

// Kafka is a source of what stands on the board, which it keeps this member's entry on, once
// [Announcer.Announce] was called. When Run ends, the entry is withdrawn.
func Kafka(b Board, o Options) (Announcer, error) {
	if b == nil {
		return nil, errors.New("discovery: Kafka needs a Board")
	}
	o, err := o.filled()
	if err != nil {
		return nil, err
	}
	return &boardSource{board: b, log: o.Log, announced: make(chan struct{}, 1)}, nil
}

type boardSource struct {
	board     Board
	log       *zap.Logger
	announced chan struct{} // a token when what to announce has changed

	mu            sync.Mutex
	name, address string
	entries       map[string]string // as watched last
}

// Name implements Source.
func (s *boardSource) Name() string { return "kafka" }

// Announce implements Announcer.
func (s *boardSource) Announce(name, address string) {
	s.mu.Lock()
	s.name, s.address = name, address
	s.mu.Unlock()
	select {
	case s.announced <- struct{}{}:
	default:
	}
}

// Run implements Source.
func (s *boardSource) Run(ctx context.Context, found func(addresses []string)) error {
	var publisher sync.WaitGroup
	publisher.Go(func() { s.publish(ctx) })
	defer publisher.Wait()
	log := limited{log: s.log}
	for wait := backoffMin; ; wait = min(2*wait, PublishInterval) {
		began := time.Now()
		err := s.watch(ctx, found)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		log.warn("discovery: the board cannot be read; its last entries stand, and it is tried again", err)
		if time.Since(began) > PublishInterval {
			wait = backoffMin
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(jittered(wait)):
		}
	}
}

func (s *boardSource) watch(ctx context.Context, found func([]string)) error {
	return s.board.Watch(ctx, func(entries map[string]string) {
		s.mu.Lock()
		before := list(s.entries)
		s.entries = entries
		s.mu.Unlock()
		if now := list(entries); !slices.Equal(now, before) {
			found(now)
		}
	})
}

func list(entries map[string]string) []string {
	all := make([]string, 0, len(entries))
	for _, a := range entries {
		all = append(all, a)
	}
	return sorted(all)
}

// publish keeps the entry on the board until ctx ends, and then takes it off.
func (s *boardSource) publish(ctx context.Context) {
	log := limited{log: s.log}
	written := false
	timer := time.NewTimer(PublishInterval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			if written {
				s.withdraw(ctx)
			}
			return
		case <-timer.C:
		case <-s.announced:
		}
		next := jittered(PublishInterval)
		if name, address := s.own(); name != "" {
			bounded, cancel := context.WithTimeout(ctx, publishTimeout)
			err := s.board.Publish(bounded, name, address)
			cancel()
			written = true // also after an error: it may have arrived
			if err != nil && ctx.Err() == nil {
				log.warn("discovery: this member's address could not be written on the board; it is tried again", err)
				next = jittered(PublishInterval / 6)
			}
		}
		timer.Reset(next)
	}
}

func (s *boardSource) own() (name, address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.name, s.address
}

// withdraw leaves an entry alone that another member of this name has written since.
func (s *boardSource) withdraw(ctx context.Context) {
	s.mu.Lock()
	name, address := s.name, s.address
	stands, known := s.entries[name]
	s.mu.Unlock()
	if known && stands != address {
		return
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), withdrawTimeout)
	defer cancel()
	if err := s.board.Withdraw(bounded, name); err != nil {
		s.log.Info("discovery: this member's entry stays on the board until it is stale", zap.Error(err))
	}
}

// limited logs at most one line in complainEvery, with how many were left out.
type limited struct {
	log  *zap.Logger
	last time.Time
	left int
}

func (l *limited) warn(msg string, err error) {
	now := time.Now()
	if !l.last.IsZero() && now.Sub(l.last) < complainEvery {
		l.left++
		return
	}
	l.log.Warn(msg, zap.Int("left_out", l.left), zap.Error(err))
	l.last, l.left = now, 0
}
