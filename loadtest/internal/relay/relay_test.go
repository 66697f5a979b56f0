//go:build linux

package relay

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const parts = 3

// broker returns a configuration for topics with nothing in them, and a client.
func broker(t *testing.T) (Config, *kgo.Client) {
	t.Helper()
	b, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(parts, "from", "to"))
	require.NoError(t, err)
	t.Cleanup(b.Close)
	c := Config{Brokers: b.ListenAddrs(), From: "from", To: "to", Group: "g", Interval: 10 * time.Millisecond}
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.Brokers...), kgo.ConsumeTopics("to"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.DisableClientMetrics())
	require.NoError(t, err)
	t.Cleanup(cl.Close)
	return c, cl
}

func put(t *testing.T, cl *kgo.Client, first, n int) {
	t.Helper()
	var rs []*kgo.Record
	for i := first; i < first+n; i++ {
		rs = append(rs, &kgo.Record{
			Topic: "from", Partition: int32(i % parts), Key: fmt.Appendf(nil, "k%d", i), Value: fmt.Appendf(nil, "v%d", i),
			Headers: []kgo.RecordHeader{{Key: "h", Value: []byte("x")}},
		})
	}
	require.NoError(t, cl.ProduceSync(context.Background(), rs...).FirstErr())
}

// take reads n records of the topic that is relayed to, and then sees that there are
// no more.
func take(t *testing.T, cl *kgo.Client, n int) map[string]*kgo.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	got := map[string]*kgo.Record{}
	seen := 0
	for seen < n {
		fs := cl.PollFetches(ctx)
		require.NoError(t, ctx.Err(), "%d of %d records", seen, n)
		fs.EachRecord(func(r *kgo.Record) { seen++; got[string(r.Value)] = r })
	}
	require.Equal(t, n, seen)
	require.Len(t, got, n, "each once")
	return got
}

func TestLoopCopiesEachRecordOnce(t *testing.T) {
	c, cl := broker(t)
	put(t, cl, 0, 1000)
	var st Stats
	for life, n := range []int{1000, 500} { // the second goes on where the first has committed
		if life > 0 {
			put(t, cl, 1000, n)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ready, ended := make(chan struct{}), make(chan error, 1)
		go func() {
			var err error
			st, err = Loop(ctx, c, parts, func() { close(ready) })
			ended <- err
		}()
		<-ready
		for v, r := range take(t, cl, n) {
			require.Equal(t, "k"+v[1:], string(r.Key))
			require.Equal(t, []kgo.RecordHeader{{Key: "h", Value: []byte("x")}}, r.Headers)
			var i int
			_, err := fmt.Sscanf(v, "v%d", &i)
			require.NoError(t, err)
			require.EqualValues(t, i%parts, r.Partition)
		}
		cancel()
		require.NoError(t, <-ended)
		require.EqualValues(t, n, st.Records)
		require.Positive(t, st.Transactions)
		require.Zero(t, st.Aborted)
	}
}

// With an interval that never ends only the number of records ends a transaction.
func TestTransactionsEndByNumber(t *testing.T) {
	c, cl := broker(t)
	c.Interval, c.Records = time.Hour, 100
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	var st Stats
	go func() {
		var err error
		st, err = Loop(ctx, c, parts, func() {})
		ended <- err
	}()
	put(t, cl, 0, 100)
	take(t, cl, 100)
	put(t, cl, 100, 30) // waits for 70 more, or the end
	cancel()
	require.NoError(t, <-ended)
	require.GreaterOrEqual(t, st.Records, int64(100))
	require.LessOrEqual(t, st.Transactions, int64(2))
}

// The process around the loop ends with its standard input, and tells what it did.
func TestServe(t *testing.T) {
	c, cl := broker(t)
	in, stop := io.Pipe()
	out, w := io.Pipe()
	ended := make(chan error, 1)
	args := c.Args(parts)
	require.Equal(t, Command, args[0])
	go func() { ended <- Serve(context.Background(), args[1:], in, w); w.Close() }()
	line := make([]byte, len(readyLine)+1)
	_, err := io.ReadFull(out, line)
	require.NoError(t, err)
	require.Equal(t, readyLine+"\n", string(line))
	put(t, cl, 0, 50)
	take(t, cl, 50)
	require.NoError(t, stop.Close())
	last, err := io.ReadAll(out)
	require.NoError(t, err)
	require.NoError(t, <-ended)
	var st Stats
	require.NoError(t, json.Unmarshal(last, &st))
	require.EqualValues(t, 50, st.Records)
}

func TestServeRefuses(t *testing.T) {
	good := (&Config{Brokers: []string{"127.0.0.1:1"}, From: "a", To: "b", Group: "g", Interval: time.Second}).Args(1)[1:]
	for i, bad := range map[int]string{4: "soon", 5: "many", 6: "all"} {
		args := append([]string(nil), good...)
		args[i] = bad
		require.ErrorContains(t, Serve(context.Background(), args, strings.NewReader(""), io.Discard), bad)
	}
	require.ErrorContains(t, Serve(context.Background(), good[:3], strings.NewReader(""), io.Discard), "3 arguments")
}

func TestProcessesThatAreNoLoop(t *testing.T) {
	c := Config{Brokers: []string{"127.0.0.1:1"}, From: "a", To: "b", Group: "g", Interval: time.Second}
	_, err := Start(context.Background(), "/nowhere/loadtest", c, 1)
	require.ErrorContains(t, err, "no such file")
	_, err = Start(context.Background(), "/bin/echo", c, 1)
	require.ErrorContains(t, err, `it says "relay-loop 127.0.0.1:1 a b g 1s 0 1"`)
	_, err = Start(context.Background(), "/bin/false", c, 1)
	require.ErrorContains(t, err, "exit status 1")
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = Start(gone, "/bin/sleep", c, 1) // refuses its arguments
	require.Error(t, err)
}

func TestValidate(t *testing.T) {
	require.NoError(t, (&Config{Interval: time.Second}).Validate())
	require.ErrorContains(t, (&Config{}).Validate(), "--commit-interval: 0s")
	require.ErrorContains(t, (&Config{Interval: time.Second, Records: -1}).Validate(), "--commit-records: -1")
}
