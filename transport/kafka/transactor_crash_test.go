package kafka

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sys/unix"
)

// dieInCommit has a broker process kill itself while it handles a commit: the environment
// says which one, and how long after its begin.
func dieInCommit(e *Embedded) {
	nth, _ := strconv.Atoi(os.Getenv(childEnv + "_DIE_NTH"))
	after, _ := time.ParseDuration(os.Getenv(childEnv + "_DIE_AFTER"))
	if nth == 0 {
		return
	}
	e.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.EndTxn}, Count: -1, When: func(req kmsg.Request) bool {
		if !req.(*kmsg.EndTxnRequest).Commit {
			return false
		}
		if nth--; nth == 0 {
			go func() {
				for start := time.Now(); time.Since(start) < after; {
				}
				_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			}()
		}
		return false
	}})
}

// crashRun commits transactions to a broker process that dies again and again, by the book.
type crashRun struct {
	t       testing.TB
	cfg     Config
	plan    TopicPlan
	m       *groupMember
	tr      *Transactor
	want    []string
	ways    map[string]int
	last    int64
	commits atomic.Int64
}

const crashPartitions = 8

func newCrashRun(t testing.TB, addr string) *crashRun {
	c := &crashRun{t: t, cfg: testConfig(t, addr), ways: map[string]int{}, last: -1}
	c.plan = makeTopics(t, c.cfg, crashPartitions)
	c.m = joinGroup(t, c.cfg, c.plan.Jobs)
	eventually(t, func() bool { return len(c.m.owned()) == crashPartitions }, "assigned")
	c.tr = readyTransactor(t, c.cfg, unique())
	return c
}

func (c *crashRun) commit() {
	c.t.Helper()
	c.last++
	tx := &Transaction{Messages: messages(c.plan.Results, fmt.Sprintf("%d-", c.last), 20, crashPartitions), Topic: c.plan.Jobs,
		Offsets: map[int32]int64{}, Group: c.m.metadata(c.t)}
	for p := range int32(crashPartitions) {
		tx.Offsets[p] = c.last
	}
	way, _ := commitByTheBook(c.t, c.tr, c.m, tx)
	if len(way) > 60 {
		way = way[:30] + ".." + way[len(way)-20:]
	}
	c.ways[way]++
	c.want = append(c.want, values(tx.Messages)...)
	c.commits.Add(1)
}

// check reads everything anew.
func (c *crashRun) check(when string) {
	c.t.Helper()
	for p := range int32(crashPartitions) {
		require.Equal(c.t, c.last, committedOffset(c.t, c.m, c.plan.Jobs, p), when)
	}
	r := readCommitted(c.t, c.cfg.Bootstrap, c.plan.Results)
	requireOnce(c.t, c.want, r.settle(c.t, c.cfg, c.plan.Results, crashPartitions), when)
}

// A broker that is killed again and again at any moment leaves each message visible once; also
// to those who read after yet another crash.
func TestTransactionsSurviveSigkill(t *testing.T) {
	const kills = 8
	dir := t.TempDir()
	addr, kill := startBrokerProcess(t, ":0", dir)
	c := newCrashRun(t, addr)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	quit, done, killed := make(chan struct{}), make(chan struct{}), make(chan func(), 1)
	go func() {
		defer close(done)
		for range kills {
			for from := c.commits.Load(); c.commits.Load() < from+5; {
				select {
				case <-quit:
					return
				case <-time.After(time.Duration(random.IntN(2000)) * time.Microsecond):
				}
			}
			kill()
			_, kill = startBrokerProcess(t, addr, dir)
		}
		killed <- kill
	}()
	defer func() { close(quit); <-done }()
	for len(killed) == 0 {
		c.commit()
	}
	t.Logf("%d transactions: %v; %+v", c.last+1, c.ways, c.tr.Stats())
	require.Zero(t, c.tr.Stats().Fenced, "nobody took over")
	c.check("at the end")
	(<-killed)()
	startBrokerProcess(t, addr, dir)
	c.check("after another crash")
}

// The same with a broker that dies in the middle of a commit, which kfake writes piece by
// piece.
func TestCommitIsAtomicOverSigkill(t *testing.T) {
	const kills = 12
	dir := t.TempDir()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	addr, kill := startBrokerProcess(t, ":0", dir)
	c := newCrashRun(t, addr)
	c.commit()
	kill()
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for range kills {
			_, reap := startBrokerProcess(t, addr, dir, childEnv+"_DIE_NTH="+strconv.Itoa(1+random.IntN(3)),
				childEnv+"_DIE_AFTER="+(time.Duration(random.IntN(400))*time.Microsecond).String())
			for listens(addr) {
				select {
				case <-quit:
					return
				case <-time.After(5 * time.Millisecond):
				}
			}
			reap()
		}
		_, kill = startBrokerProcess(t, addr, dir)
	}()
	defer func() { close(quit); <-done }()
	for running := true; running; {
		c.commit()
		select {
		case <-done:
			running = false
		default:
		}
	}
	t.Logf("%d transactions: %v; %+v", c.last+1, c.ways, c.tr.Stats())
	require.Zero(t, c.tr.Stats().Fenced, "nobody took over")
	c.check("at the end")
	kill()
	startBrokerProcess(t, addr, dir)
	c.check("after another crash")
}

func listens(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err == nil {
		c.Close()
	}
	return err == nil
}

func requireOnce(t testing.TB, want, seen []string, when string) {
	t.Helper()
	count := map[string]int{}
	for _, v := range seen {
		count[v]++
	}
	lost, twice := 0, 0
	for _, v := range want {
		switch n := count[v]; {
		case n == 0:
			lost++
		case n > 1:
			twice++
		}
		delete(count, v)
	}
	require.Zerof(t, lost+twice+len(count), "%s: of %d values %d are lost, %d are seen more than once, and %d were never committed",
		when, len(want), lost, twice, len(count))
}
