package kafka

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// member is a consumer with the transactional producer of its member.
type member struct {
	*running
	rec *recorder
	tx  *rawTx
}

func joinMember(t *testing.T, cfg Config, topic, name string) *member {
	t.Helper()
	m := &member{rec: newRecorder(name, nil), tx: newRawTx(t, cfg, name+"-"+unique())}
	m.running = runConsumer(t, cfg, topic, m.rec, nil)
	return m
}

// commit commits an offset of each partition, with this group metadata.
func (m *member) commit(topic string, g *GroupMetadata, offset int64) error {
	offsets := map[int32]int64{}
	for _, p := range m.Stats().Assigned {
		offsets[p] = offset
	}
	return m.tx.commitOffsets(topic, offsets, g)
}

// Members come and go: each has group metadata that the broker accepts, also those whose
// share does not change; and none from before a rebalance is accepted any more.
func TestGroupMetadataOverRebalances(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		const partitions = 4
		plan := makeTopics(t, cfg, partitions)
		var members []*member
		produceN(t, cfg, plan.Jobs, "x", 400)
		last := int32(0)
		settled := func() {
			t.Helper()
			gen := int32(0)
			eventually(t, func() bool {
				sum := 0
				gen = 0
				for _, m := range members {
					g := m.Group()
					if g == nil || gen != 0 && identify(g.meta).generation != gen {
						return false
					}
					gen = identify(g.meta).generation
					sum += len(m.Stats().Assigned)
				}
				return gen > last && sum == partitions
			}, "all members know the same new generation")
			last = gen
		}
		offset := int64(0)
		for step, change := range []func(){
			func() { members = append(members, joinMember(t, cfg, plan.Jobs, "a")) },
			func() { members = append(members, joinMember(t, cfg, plan.Jobs, "b")) },
			func() { members = append(members, joinMember(t, cfg, plan.Jobs, "c")) },
			func() { members[1].stop(t)(); members = append(members[:1], members[2:]...) },
			func() { members = append(members, joinMember(t, cfg, plan.Jobs, "d")) },
			func() { // more members than partitions
				members = append(members, joinMember(t, cfg, plan.Jobs, "e"), joinMember(t, cfg, plan.Jobs, "f"))
			},
			func() { members[4].stop(t)(); members = members[:4] },
		} {
			before := map[*member]*GroupMetadata{}
			for _, m := range members {
				before[m] = m.Group()
			}
			change()
			settled()
			for _, m := range members {
				offset++
				if old := before[m]; old != nil {
					require.NotEqual(t, identify(old.meta), identify(m.Group().meta), "step %d", step)
					require.Error(t, m.tx.commitOffsets(plan.Jobs, map[int32]int64{0: 999}, old), "step %d: from before", step)
				}
				if len(m.Stats().Assigned) > 0 {
					require.NoError(t, m.commit(plan.Jobs, m.Group(), offset), "step %d", step)
				}
			}
			for _, m := range members {
				require.False(t, m.rec.has("lost"))
			}
		}
	})
}

// The group moves on while the handler is busy: what it can commit with is refused, for it
// does not know yet; partitions that it still has included.
func TestGroupMetadataOfBusyHandlerIsRefused(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		plan := makeTopics(t, cfg, 2)
		a := joinMember(t, cfg, plan.Jobs, "a")
		eventually(t, func() bool { return a.rec.ownedCount() == 2 && a.Stats().Held == 0 }, "a has both")
		require.NoError(t, a.commit(plan.Jobs, a.Group(), 0))
		busy, release := make(chan struct{}), make(chan struct{})
		var once sync.Once
		a.rec.onRecords = func(int32, []Record) {
			once.Do(func() {
				close(busy)
				<-release
			})
		}
		produceN(t, cfg, plan.Jobs, "x", 10)
		<-busy
		// The group has moved on when its coordinator says so.
		b := joinMember(t, cfg, plan.Jobs, "b")
		eventually(t, func() bool { return b.Stats().Rebalances > 0 }, "the second generation, in which b has nothing yet")
		g := a.Group()
		require.NotNil(t, g)
		require.ErrorContains(t, a.tx.commitOffsets(plan.Jobs, map[int32]int64{0: 1, 1: 1}, g), "generation")
		close(release)
		eventually(t, func() bool { return a.rec.ownedCount() == 1 && b.rec.ownedCount() == 1 }, "shared")
		eventually(t, func() bool { return a.commit(plan.Jobs, a.Group(), 1) == nil }, "and works on")
	})
}

// Within Revoked and Assigned the metadata fit: a commit is accepted.
func TestGroupMetadataWithinCallbacks(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		plan := makeTopics(t, cfg, 2)
		var mu sync.Mutex
		var results []string
		a := &member{rec: newRecorder("a", nil), tx: newRawTx(t, cfg, "a-"+unique())}
		try := func(what string) func([]int32) {
			return func(ps []int32) {
				offsets := map[int32]int64{}
				for _, p := range ps {
					offsets[p] = 0
				}
				err := a.tx.commitOffsets(plan.Jobs, offsets, a.rec.c.Group())
				mu.Lock()
				defer mu.Unlock()
				results = append(results, fmt.Sprint(what, " ", len(ps), " ", err))
			}
		}
		a.rec.onAssigned, a.rec.onRevoked = try("assigned"), try("revoked")
		a.running = runConsumer(t, cfg, plan.Jobs, a.rec, nil)
		eventually(t, func() bool { return a.rec.ownedCount() == 2 }, "a has both")
		b := joinMember(t, cfg, plan.Jobs, "b")
		eventually(t, func() bool { return a.rec.ownedCount() == 1 && b.rec.ownedCount() == 1 }, "shared")
		b.stop(t)()
		eventually(t, func() bool { return a.rec.ownedCount() == 2 }, "a has both again")
		a.stop(t)()
		require.Equal(t, []string{"assigned 2 <nil>", "revoked 1 <nil>", "assigned 1 <nil>", "revoked 2 <nil>"}, results)
		require.Nil(t, a.Group())
	})
}

// Generation -1 and an empty member id are accepted by brokers without a check: that is why
// such metadata are never given out.
func TestMetadataWithoutMembershipAreNotGivenOut(t *testing.T) {
	none, err := ck.NewTestConsumerGroupMetadata("g")
	require.NoError(t, err)
	require.Equal(t, identity{generation: -1, group: "g"}, identify(none))
	require.Equal(t, int32(-1), identify(nil).generation)

	e := startEmbedded(t, EmbeddedConfig{Listen: ":0"})
	cfg := testConfig(t, e.Addr())
	plan := makeTopics(t, cfg, 1)
	rec := newRecorder("c", nil)
	rec.manual = true
	c, err := NewConsumer(cfg, plan.Jobs, rec, testLog(t))
	require.NoError(t, err)
	require.Nil(t, c.Group())
	require.False(t, c.rejoined())
	require.Nil(t, c.Group())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, c.Run(ctx))
}

// identify and librdkafka agree about the form.
func TestIdentify(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		plan := makeTopics(t, cfg, 1)
		a := joinMember(t, cfg, plan.Jobs, "a")
		eventually(t, func() bool { return a.Group() != nil }, "in the group")
		id := identify(a.Group().meta)
		require.Equal(t, cfg.Group, id.group)
		require.Positive(t, id.generation)
		require.Equal(t, []string{id.member}, testAdmin(t, cfg).members(cfg.Group))
	})
}

// The handler stands still for longer than the group waits. It hears that its partitions
// are lost before anything else, though librdkafka holds records for it; and what it still
// commits is refused.
func TestZombieHandlerLosesFirst(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		cfg.BatchRecords = 5
		cfg.MaxPollInterval = 4 * time.Second
		plan := makeTopics(t, cfg, 2)
		produceN(t, cfg, plan.Jobs, "a", 1000)
		a := &member{rec: newRecorder("a", nil), tx: newRawTx(t, cfg, "a-"+unique())}
		busy, release := make(chan struct{}), make(chan struct{})
		var once sync.Once
		var mu sync.Mutex
		var after []string
		note := func(s string) { mu.Lock(); defer mu.Unlock(); after = append(after, s) }
		a.rec.onRecords = func(int32, []Record) {
			note("records")
			once.Do(func() {
				close(busy)
				<-release
				mu.Lock()
				after = nil
				mu.Unlock()
			})
		}
		a.rec.onRevoked = func([]int32) { note("revoked") }
		a.rec.onLost = func(ps []int32) { note(fmt.Sprint("lost ", len(ps), a.rec.c.Group() == nil)) }
		a.rec.onAssigned = func([]int32) { note("assigned") }
		a.running = runConsumer(t, cfg, plan.Jobs, a.rec, nil)
		<-busy
		g := a.Group()
		b := joinMember(t, cfg, plan.Jobs, "b")
		eventually(t, func() bool { return b.rec.ownedCount() == 2 && b.rec.count() == 1000 }, "b has taken over")
		require.Error(t, a.tx.commitOffsets(plan.Jobs, map[int32]int64{0: 3}, g))
		close(release)
		eventually(t, func() bool { return a.rec.ownedCount() == 1 && b.rec.ownedCount() == 1 }, "a is back")
		mu.Lock()
		defer mu.Unlock()
		require.Equal(t, "lost 2 true", after[0], "%v", after)
		require.Equal(t, "assigned", after[1], "%v", after)
		require.EqualValues(t, 2, a.Stats().PartitionsLost)
	})
}

// The whole process stands still, and its group gives it up meanwhile. librdkafka holds
// records that it would hand out before it learns from a heartbeat what happened; its own
// clock says that the session is not over.
func TestStoppedProcessLosesFirst(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		plan := makeTopics(t, cfg, 2)
		produceN(t, cfg, plan.Jobs, "a", 20_000)
		admin := testAdmin(t, cfg)
		p, lines := startConsumerProcess(t, cfg, plan.Jobs)
		for range 5 {
			awaitLine(t, lines, "records")
			require.NoError(t, p.Signal(unix.SIGSTOP))
			stopped := time.Now()
			leave(t, cfg, admin.members(cfg.Group)[0])
			other := joinMember(t, cfg, plan.Jobs, "b")
			eventually(t, func() bool { return other.rec.ownedCount() == 2 }, "another member has its partitions")
			time.Sleep(cfg.SessionTimeout*6/10 - time.Since(stopped)) // it has to be long for a process, not for a session
			for len(lines) > 0 {                                      // what was in the pipe
				<-lines
			}
			require.NoError(t, p.Signal(unix.SIGCONT))
			next := func() string {
				select {
				case line := <-lines:
					return line
				case <-time.After(patience):
					t.Fatal("nothing is heard of the process that was stopped")
				}
				return ""
			}
			line := next()
			if line == "records" { // of the batch that was being handed over when it was stopped
				line = next()
			}
			require.Equal(t, "lost", line)
			other.stop(t)()
			awaitLine(t, lines, "assigned")
		}
	})
}

// members returns the ids of a group's members.
func (a adminFor) members(group string) []string {
	a.t.Helper()
	res, err := a.a.DescribeConsumerGroups(within(a.t, patience), []string{group})
	require.NoError(a.t, err)
	var ids []string
	for _, m := range res.ConsumerGroupDescriptions[0].Members {
		ids = append(ids, m.ConsumerID)
	}
	return ids
}

// leave takes a member out of its group, in its name.
func leave(t *testing.T, cfg Config, member string) {
	t.Helper()
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Version, req.Group, req.MemberID = 2, cfg.Group, member
	resp, err := ask(cfg.Bootstrap, req)
	require.NoError(t, err)
	require.Zero(t, resp.(*kmsg.LeaveGroupResponse).ErrorCode)
}

func awaitLine(t *testing.T, lines <-chan string, want string) {
	t.Helper()
	limit := time.After(patience)
	for {
		select {
		case line, ok := <-lines:
			require.True(t, ok, "the process has ended")
			if line == want {
				return
			}
		case <-limit:
			t.Fatalf("no %q", want)
		}
	}
}

// startConsumerProcess runs the test binary as a consumer that prints what its handler is
// told.
func startConsumerProcess(t *testing.T, cfg Config, topic string) (*os.Process, <-chan string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=consumer", childEnv+"_BOOTSTRAP="+cfg.Bootstrap, childEnv+"_GROUP="+cfg.Group, childEnv+"_TOPIC="+topic)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := make(chan string, 1<<20)
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(lines)
		for in := bufio.NewScanner(out); in.Scan(); {
			lines <- in.Text()
		}
	})
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		reader.Wait()
		_ = cmd.Wait()
	})
	return cmd.Process, lines
}

// runConsumerChild is the process of startConsumerProcess. It takes its records one by one
// and slowly, so that many wait in librdkafka.
func runConsumerChild() int {
	cfg := DefaultConfig()
	cfg.Bootstrap, cfg.Group, cfg.SessionTimeout = os.Getenv(childEnv+"_BOOTSTRAP"), os.Getenv(childEnv+"_GROUP"), 3*time.Second
	cfg.BatchRecords = 1
	h := &printer{}
	c, err := NewConsumer(cfg, os.Getenv(childEnv+"_TOPIC"), h, zap.NewNop())
	if err == nil {
		h.c = c
		err = c.Run(context.Background())
	}
	fmt.Println("error:", err)
	return 1
}

type printer struct{ c *Consumer }

func (p *printer) Assigned(ids []int32) {
	fmt.Println("assigned")
	for _, id := range ids {
		p.c.Start(id, 0)
	}
}
func (p *printer) Revoked([]int32) { fmt.Println("revoked") }
func (p *printer) Lost([]int32)    { fmt.Println("lost") }
func (p *printer) Records(int32, []Record) {
	fmt.Println("records")
	time.Sleep(time.Millisecond)
}
