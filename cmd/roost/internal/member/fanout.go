package member

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/roost-server/roost/cmd/roost/internal/api"
	"github.com/roost-server/roost/protocol/record"
	"github.com/roost-server/roost/transport/kafka"
)

// local is one member by itself: what its own shards, gates and actors know, and what it alone can do.
// Its methods are called from many goroutines, also for other members, and end early with their context.
type local interface {
	Name() string
	// Home returns the partition of a job with this key, Partitions how many there are.
	Home(key string) uint32
	Partitions() uint32
	// Known tells what this member's shards know of a job.
	Known(ctx context.Context, id string) (known, error)
	// Produce hands a job, or the cancellation of one, to Kafka: into a partition, or that of its key
	// with [kafka.PartitionByKey].
	Produce(ctx context.Context, j *record.Job, partition int32) error
	// The next are as those of [api.Backend], of this member's shards. Cursors are ids of nodes: what
	// comes after.
	Jobs(ctx context.Context, f api.JobFilter) (api.JobList, error)
	Nodes(ctx context.Context, f api.NodeFilter) (api.NodePage, error)
	Watermarks(ctx context.Context) ([]api.WatermarkView, error)
	Status(ctx context.Context) (api.StatusView, error)
	// Follow sends what this member's shards say of a job; one that they have not seen is waited for. The
	// channel is closed after the last outcome, and after ctx ended. An error is [api.ErrEnded].
	Follow(ctx context.Context, id string) (<-chan api.Event, error)
	Tree(ctx context.Context) (api.TreeView, error)
	Trace(ctx context.Context, f api.TraceFilter) (<-chan api.TraceEvent, error)
	// Members returns the cluster as this member sees it, itself first, then by name.
	Members(ctx context.Context) ([]api.MemberView, error)
	// Drain, Undrain and Shed return when the member has begun. Addresses in to are HOST:PORT of nodes'
	// ports; without any, those of the serving members as they come and go. A rate of 0 is the default.
	Drain(ctx context.Context, r api.DrainRequest) (api.MemberView, error)
	Undrain(ctx context.Context) (api.MemberView, error)
	Shed(ctx context.Context, r shedRequest) error
	// MissingText says where to look for a job that has ended and whose details are gone.
	MissingText(id string) string
	Ready(ctx context.Context) error
	Metrics() http.Handler
}

// known is what a member knows of a job.
type known struct {
	Job        *api.JobView         `json:"job,omitempty"` // with results and assignments
	Ended      bool                 `json:"ended,omitempty"`
	Rebuilding []api.RebuildingView `json:"rebuilding,omitempty"` // shards that may know it, soon
	Idle       bool                 `json:"idle,omitempty"`       // the member has no partitions
}

// Peer is another member that is up.
type Peer struct {
	Slot uint16
	Name string
}

// peers is how other members are reached. Methods may be called from any goroutine.
type peers interface {
	// Peers returns the others that are up.
	Peers() []Peer
	// Owner returns which member owns a partition, 0 being this one.
	Owner(partition uint32) (slot uint16, epoch uint64, known bool)
	// Call and Stream ask one of them. They end with an error when it goes down. The channel is closed at
	// the stream's end, whose error the function returns; ending ctx is enough to leave it.
	Call(ctx context.Context, slot uint16, method string, body []byte) ([]byte, error)
	Stream(ctx context.Context, slot uint16, method string, body []byte) (<-chan []byte, func() error)
}

const (
	// askTimeout is for the others' answers to a question: far more than they take. A member that is dead
	// is declared so a little later, and is not asked then.
	askTimeout = 2 * time.Second
	// knownTimeout is that of a submission, which every job has to wait for.
	knownTimeout = 500 * time.Millisecond
)

// fanout answers the API for the whole cluster: it asks all members at once and brings their answers
// together. What a member that does not answer in time would have added is missing, and said to be.
type fanout struct {
	local
	peers  peers
	quotas quotas
	log    *zap.Logger
}

func newFanout(l local, p peers, log *zap.Logger) *fanout {
	return &fanout{local: l, peers: p, log: log}
}

// answer is what one member says.
type answer[T any] struct {
	Peer
	value T
	err   error
}

// askPeers asks all others at once. The answers come in no order; those who gave none, for whatever
// reason but that the question is invalid, are missing, ordered by name.
func askPeers[T any](ctx context.Context, f *fanout, timeout time.Duration, method string, question any) (answers []answer[T], missing []string, err error) {
	others := f.peers.Peers()
	if len(others) == 0 {
		return nil, nil, nil
	}
	body, err := json.Marshal(question)
	if err != nil {
		return nil, nil, fmt.Errorf("question %s: %w", method, err)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	replies := make(chan answer[T], len(others))
	for _, p := range others {
		go func() {
			a := answer[T]{Peer: p}
			a.err = f.call(ctx, p, method, body, &a.value)
			replies <- a
		}()
	}
	for range others {
		switch a := <-replies; {
		case a.err == nil:
			answers = append(answers, a)
		case errors.Is(a.err, api.ErrInvalid):
			err = a.err
		default:
			missing = append(missing, a.Name)
		}
	}
	slices.Sort(missing)
	return answers, missing, err
}

// call asks one member. The error is one of the API's classes if the member said so, else one of the way
// there and back.
func (f *fanout) call(ctx context.Context, p Peer, method string, body []byte, out any) error {
	done, err := f.quotas.call(ctx, p.Name)
	if err != nil {
		return err
	}
	defer done()
	b, err := f.peers.Call(ctx, p.Slot, method, body)
	if err == nil {
		err = json.Unmarshal(b, out)
	}
	if err != nil {
		err = fromRemote(err)
		f.log.Debug("a member did not answer", zap.String("peer", p.Name), zap.String("question", method), zap.Error(err))
	}
	return err
}

// askAll asks this member and all others at once. Its own error is one; the others' make them missing.
func askAll[T any](ctx context.Context, f *fanout, timeout time.Duration, method string, question any, own func(context.Context) (T, error)) ([]answer[T], []string, error) {
	type rest struct {
		answers []answer[T]
		missing []string
		err     error
	}
	others := make(chan rest, 1)
	go func() {
		var r rest
		r.answers, r.missing, r.err = askPeers[T](ctx, f, timeout, method, question)
		others <- r
	}()
	mine, err := own(ctx)
	r := <-others
	if err != nil {
		return nil, nil, err
	}
	return append([]answer[T]{{Peer: Peer{Name: f.Name()}, value: mine}}, r.answers...), r.missing, r.err
}

// unowned returns the partitions that no member owns at the moment, in order.
func (f *fanout) unowned() []int32 {
	var out []int32
	for p := range f.Partitions() {
		if _, _, ok := f.peers.Owner(p); !ok {
			out = append(out, int32(p))
		}
	}
	return out
}

// knownByAll is what all members together know of a job.
type knownByAll struct {
	known
	missing []Peer
}

func (f *fanout) known(ctx context.Context, id string, timeout time.Duration) (knownByAll, error) {
	others := f.peers.Peers()
	answers, _, err := askAll(ctx, f, timeout, methodKnown, idQuestion{ID: id},
		func(ctx context.Context) (known, error) { return f.Known(ctx, id) })
	if err != nil {
		return knownByAll{}, err
	}
	out := knownByAll{known: known{Idle: true}}
	for i := range answers {
		k := &answers[i].value
		if k.Job != nil && (out.Job == nil || f.fresher(answers[i].Slot, k.Job, out.Job)) {
			out.Job = k.Job
		}
		out.Ended = out.Ended || k.Ended
		out.Idle = out.Idle && k.Idle
		out.Rebuilding = append(out.Rebuilding, k.Rebuilding...)
	}
	for _, p := range others {
		if !slices.ContainsFunc(answers, func(a answer[known]) bool { return a.Slot == p.Slot }) {
			out.missing = append(out.missing, p)
		}
	}
	return out, nil
}

// fresher is whether a view of a job, from the member at slot, goes before another: while a partition
// moves, its old owner may answer too.
func (f *fanout) fresher(slot uint16, v, than *api.JobView) bool {
	if owner, _, ok := f.peers.Owner(uint32(v.Partition)); ok && v.Partition == than.Partition {
		return owner == slot
	}
	return ended(v) > ended(than)
}

func ended(v *api.JobView) int {
	n := 0
	for _, count := range v.Outcomes {
		n += count
	}
	return n
}

// rebuildingOf adds the partitions without an owner to those that are being rebuilt: whoever gets them
// rebuilds them first.
func (f *fanout) rebuildingOf(shards []api.RebuildingView) []api.RebuildingView {
	out := slices.Clone(shards)
	for _, p := range f.unowned() {
		out = append(out, api.RebuildingView{Partition: p, Unowned: true})
	}
	slices.SortStableFunc(out, func(a, b api.RebuildingView) int { // those that are being rebuilt stay first
		return cmp.Compare(a.Partition, b.Partition)
	})
	return slices.CompactFunc(out, func(a, b api.RebuildingView) bool { return a.Partition == b.Partition })
}

// unknown says why a job cannot be shown.
func (f *fanout) unknown(id string, k *knownByAll) error {
	shards := f.rebuildingOf(k.Rebuilding)
	switch {
	case len(shards) > 0, k.Idle:
		return &api.Rebuilding{Shards: shards, RetryAfter: time.Second}
	case k.Ended:
		return fmt.Errorf("job %q has %w, %s", id, api.ErrEnded, f.MissingText(id))
	case len(k.missing) > 0:
		return &api.MissingMembers{Members: names(k.missing), RetryAfter: time.Second}
	}
	return fmt.Errorf("job %q is %w among the pending and recently finished jobs", id, api.ErrNotFound)
}

func names(of []Peer) []string {
	out := make([]string, len(of))
	for i := range of {
		out[i] = of[i].Name
	}
	slices.Sort(out)
	return out
}

// Submit implements api.Backend. While the job's own shard is being rebuilt, which takes milliseconds
// unless it holds very many jobs, the answer waits for it, for at most submitPatience.
func (f *fanout) Submit(ctx context.Context, j *record.Job) error {
	home, giveUp := f.Home(j.Key()), time.Now().Add(submitPatience)
	for {
		err := f.admit(ctx, j.ID, home)
		switch {
		case err == nil:
			return f.Produce(ctx, j, kafka.PartitionByKey)
		case !errors.Is(err, api.ErrUnavailable) || time.Now().After(giveUp):
			return err
		}
		select {
		case <-time.After(submitPause):
		case <-ctx.Done():
			return err
		}
	}
}

const (
	submitPatience = 2 * time.Second
	submitPause    = 20 * time.Millisecond
)

// admit refuses a job whose id is known. It is unavailable when only time can tell: the job's own shard
// is being rebuilt, or its owner does not answer. No other could know of a first job with the same key;
// and when no member owns the partition there is nobody to ask: the shard itself finds the duplicate.
func (f *fanout) admit(ctx context.Context, id string, home uint32) error {
	k, err := f.known(ctx, id, knownTimeout)
	switch {
	case err != nil:
		return err
	case k.Job != nil:
		v := *k.Job
		v.Results, v.Assignments = nil, nil
		return &api.Duplicate{Job: v}
	case k.Ended:
		return &api.Duplicate{Job: api.JobView{ID: id, State: api.StateDone, Outcomes: map[string]int{}}}
	case slices.ContainsFunc(k.Rebuilding, func(r api.RebuildingView) bool { return r.Partition == int32(home) }):
		return &api.Rebuilding{Shards: k.Rebuilding, RetryAfter: time.Second}
	}
	if owner, _, ok := f.peers.Owner(home); ok {
		for _, p := range k.missing {
			if p.Slot == owner {
				return &api.MissingMembers{Members: []string{p.Name}, RetryAfter: time.Second}
			}
		}
	}
	return nil
}

// Cancel implements api.Backend. The record goes where the job's own lies.
func (f *fanout) Cancel(ctx context.Context, id, reason string) (api.JobView, error) {
	k, err := f.known(ctx, id, askTimeout)
	switch {
	case err != nil:
		return api.JobView{}, err
	case k.Job == nil:
		return api.JobView{}, f.unknown(id, &k)
	case k.Job.State == api.StateDone:
		return api.JobView{}, fmt.Errorf("job %q has %w", id, api.ErrEnded)
	}
	j := &record.Job{ID: id, Cancel: true, CancelReason: reason, Tenant: k.Job.Tenant}
	return *k.Job, f.Produce(ctx, j, k.Job.Partition)
}

// Job implements api.Backend.
func (f *fanout) Job(ctx context.Context, id string) (api.JobView, error) {
	k, err := f.known(ctx, id, askTimeout)
	switch {
	case err != nil:
		return api.JobView{}, err
	case k.Job == nil:
		return api.JobView{}, f.unknown(id, &k)
	}
	return *k.Job, nil
}

// Jobs implements api.Backend.
func (f *fanout) Jobs(ctx context.Context, filter api.JobFilter) (api.JobList, error) {
	answers, missing, err := askAll(ctx, f, askTimeout, methodJobs, filter,
		func(ctx context.Context) (api.JobList, error) { return f.local.Jobs(ctx, filter) })
	if err != nil {
		return api.JobList{}, err
	}
	out := api.JobList{Jobs: []api.JobView{}, Rebuilding: f.unowned(), Missing: api.Missing{MissingMembers: missing}}
	at := map[string]int{} // of the jobs, by id
	for i := range answers {
		out.Rebuilding = append(out.Rebuilding, answers[i].value.Rebuilding...)
		for _, v := range answers[i].value.Jobs {
			n, twice := at[v.ID]
			switch {
			case !twice || out.Jobs[n].Partition != v.Partition:
				at[v.ID] = len(out.Jobs)
				out.Jobs = append(out.Jobs, v)
			case f.fresher(answers[i].Slot, &v, &out.Jobs[n]):
				out.Jobs[n] = v
			}
		}
	}
	slices.SortStableFunc(out.Jobs, func(a, b api.JobView) int {
		return cmp.Or(cmp.Compare(b.SubmittedMs, a.SubmittedMs), strings.Compare(a.ID, b.ID))
	})
	out.Jobs = out.Jobs[:min(len(out.Jobs), filter.Limit)]
	out.Rebuilding = sorted(out.Rebuilding)
	return out, nil
}

func sorted(partitions []int32) []int32 {
	slices.Sort(partitions)
	return slices.Compact(partitions)
}

// Nodes implements api.Backend.
func (f *fanout) Nodes(ctx context.Context, filter api.NodeFilter) (api.NodePage, error) {
	answers, missing, err := askAll(ctx, f, askTimeout, methodNodes, filter,
		func(ctx context.Context) (api.NodePage, error) { return f.local.Nodes(ctx, filter) })
	if err != nil {
		return api.NodePage{}, err
	}
	out := api.NodePage{Nodes: []api.NodeView{}, Rebuilding: f.unowned(), Missing: api.Missing{MissingMembers: missing}}
	more := false
	for i := range answers {
		page := &answers[i].value
		out.Total += page.Total
		out.Nodes = append(out.Nodes, page.Nodes...)
		out.Rebuilding = append(out.Rebuilding, page.Rebuilding...)
		more = more || page.Next != ""
	}
	// While a partition moves, two members may list its nodes: the newest session goes first.
	slices.SortFunc(out.Nodes, func(a, b api.NodeView) int {
		return cmp.Or(strings.Compare(a.ID, b.ID), cmp.Compare(b.Incarnation, a.Incarnation))
	})
	all := len(out.Nodes)
	out.Nodes = slices.CompactFunc(out.Nodes, func(a, b api.NodeView) bool { return a.ID == b.ID })
	out.Total -= all - len(out.Nodes)
	if len(out.Nodes) > filter.Limit {
		out.Nodes, more = out.Nodes[:filter.Limit], true
	}
	if more && len(out.Nodes) > 0 {
		out.Next = out.Nodes[len(out.Nodes)-1].ID
	}
	out.Rebuilding = sorted(out.Rebuilding)
	return out, nil
}

// Node implements api.Backend.
func (f *fanout) Node(ctx context.Context, id string) (api.NodeView, error) {
	page, err := f.Nodes(ctx, api.NodeFilter{Prefix: id, Limit: 1})
	switch {
	case err != nil:
		return api.NodeView{}, err
	case len(page.Nodes) == 1 && page.Nodes[0].ID == id: // the shortest with the prefix comes first
		return page.Nodes[0], nil
	case len(page.Rebuilding) > 0:
		e := &api.Rebuilding{RetryAfter: time.Second}
		unowned := f.unowned()
		for _, p := range page.Rebuilding {
			e.Shards = append(e.Shards, api.RebuildingView{Partition: p, Unowned: slices.Contains(unowned, p)})
		}
		return api.NodeView{}, e
	case len(page.MissingMembers) > 0:
		return api.NodeView{}, &api.MissingMembers{Members: page.MissingMembers, RetryAfter: time.Second}
	}
	return api.NodeView{}, fmt.Errorf("node %q is %w among the connected nodes", id, api.ErrNotFound)
}
