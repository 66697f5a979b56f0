package api

import (
	"context"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"
)

// The states of a member.
const (
	MemberServing  = "serving"
	MemberDraining = "draining" // sends its nodes and partitions to others
	MemberJoining  = "joining"  // does not serve yet
	MemberDown     = "down"     // was there, and is not heard any more
	MemberRefused  = "refused"  // speaks, and may not join
)

// MemberView is one member of the cluster.
type MemberView struct {
	Name         string `json:"name"`
	State        string `json:"state" enum:"serving,draining,joining,down,refused" doc:"down: it was there, and is not heard any more; refused: it speaks, and may not join"`
	Reason       string `json:"reason,omitempty" doc:"Why it is down or refused, or what is wrong between it and the member that answers"`
	SinceMs      int64  `json:"since_ms,omitempty" doc:"Unix time in milliseconds since when it is in this state, as the member that answers knows it"`
	Address      string `json:"address,omitempty" doc:"Where other members reach it"`
	NodesAddress string `json:"nodes_address,omitempty" doc:"Where nodes connect"`
	APIAddress   string `json:"api_address,omitempty"`
	Version      string `json:"version,omitempty" doc:"Version of the software"`

	Nodes       int     `json:"nodes" minimum:"0" doc:"Connections of nodes"`
	ConnectRate float64 `json:"connects_per_s" minimum:"0" doc:"Connections of nodes accepted in a second, of late"`
	Partitions  []int32 `json:"partitions" nullable:"false" doc:"That it owns"`

	ClockOffsetMs  int64      `json:"clock_offset_ms" doc:"Its clock less that of the member that answers"`
	CertificateEnd int64      `json:"certificate_end_ms,omitempty" doc:"Unix time in milliseconds when its certificate for other members expires; absent without one"`
	Link           *LinkView  `json:"link,omitempty" doc:"What is on the way to it from the member that answers"`
	Drain          *DrainView `json:"drain,omitempty" doc:"While it drains"`
}

// LinkView is what is on the way to another member.
type LinkView struct {
	QueuedBytes   int64  `json:"queued_bytes" minimum:"0" doc:"Not sent yet"`
	InFlightBytes int64  `json:"in_flight_bytes" minimum:"0" doc:"Sent and not acknowledged"`
	Resent        uint64 `json:"resent" doc:"Packets sent again, since the link began"`
}

// DrainView is how far a member's drain has come.
type DrainView struct {
	RatePerS int      `json:"rate_per_s" minimum:"1" doc:"Nodes told to leave in a second"`
	To       []string `json:"to" nullable:"false" doc:"Where they are sent: addresses of nodes' ports; none: where each node finds a member itself"`
	BeganMs  int64    `json:"began_ms" doc:"Unix time in milliseconds"`
	Began    int      `json:"began_nodes" minimum:"0" doc:"Nodes that were connected then"`
	Told     int      `json:"told" minimum:"0" doc:"Nodes that have been told to leave"`
	EndedMs  int64    `json:"ended_ms,omitempty" doc:"Unix time in milliseconds when no node and no partition was left; absent before"`
}

// MemberList is the members of a cluster.
type MemberList struct {
	Members []MemberView `json:"members" nullable:"false" doc:"The member that answers first, then by name"`
	Missing
}

// DrainRequest is the body of a drain.
type DrainRequest struct {
	RatePerS int      `json:"rate_per_s,omitempty" minimum:"1" maximum:"100000" doc:"Nodes told to leave in a second; the member's --drain-rate when absent" example:"500"`
	To       []string `json:"to,omitempty" nullable:"false" maxItems:"16" doc:"Names of members, or addresses (HOST:PORT) of nodes' ports, where nodes are sent; all serving members when absent"`
}

// RebalanceRequest is the body of a rebalance.
type RebalanceRequest struct {
	RatePerS int `json:"rate_per_s,omitempty" minimum:"1" maximum:"100000" doc:"Nodes of one member told to leave in a second; its --drain-rate when absent" example:"500"`
}

// RebalanceView is what a rebalance has begun.
type RebalanceView struct {
	Moves []MoveView `json:"moves" nullable:"false" doc:"None: the nodes are spread evenly enough"`
	Missing
}

// MoveView is one member's part in a rebalance.
type MoveView struct {
	Member string   `json:"member" doc:"The member that has more nodes than others"`
	Nodes  int      `json:"nodes" minimum:"1" doc:"Nodes that it tells to leave"`
	To     []string `json:"to" nullable:"false" doc:"Names of the members that have fewer, where they are sent"`
}

type membersOutput struct{ Body MemberList }

type memberOutput struct{ Body MemberView }

type drainInput struct {
	Name string `path:"name" minLength:"1" maxLength:"256" doc:"The member's name"`
	Body *DrainRequest
}

type undrainInput struct {
	Name string `path:"name" minLength:"1" maxLength:"256" doc:"The member's name"`
}

type rebalanceInput struct{ Body *RebalanceRequest }

type rebalanceOutput struct{ Body RebalanceView }

func (s *Server) registerMembers() {
	huma.Register(s.huma, huma.Operation{
		OperationID: "list-members", Method: http.MethodGet, Path: "/v1/members", Tags: []string{"cluster"},
		Summary: "List the members of the cluster",
		Errors:  s.errors(http.StatusServiceUnavailable),
	}, s.members)
	changes := s.errors(http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound, http.StatusRequestTimeout,
		http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusServiceUnavailable)
	huma.Register(s.huma, huma.Operation{
		OperationID: "drain-member", Method: http.MethodPost, Path: "/v1/members/{name}/drain", Tags: []string{"cluster"},
		Summary:       "Drain a member",
		Description:   "Any member may be asked. The one that is drained is not ready any more, takes no new nodes, gives up its partitions, and tells its nodes to leave, so many in a second; what runs on them goes on. It answers when it has begun: look at its drain among the members. Asked again, it changes rate and addresses.",
		DefaultStatus: http.StatusAccepted,
		MaxBodyBytes:  s.cfg.MaxBodyBytes, BodyReadTimeout: s.cfg.ReadTimeout,
		Errors: changes,
	}, s.drain)
	huma.Register(s.huma, huma.Operation{
		OperationID: "undrain-member", Method: http.MethodDelete, Path: "/v1/members/{name}/drain", Tags: []string{"cluster"},
		Summary:     "Let a member serve again",
		Description: "Nodes that have left stay where they are; see rebalance.",
		Errors:      s.errors(http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound, http.StatusServiceUnavailable),
	}, s.undrain)
	huma.Register(s.huma, huma.Operation{
		OperationID: "rebalance", Method: http.MethodPost, Path: "/v1/rebalance", Tags: []string{"cluster"},
		Summary:       "Spread the nodes evenly over the members",
		Description:   "Each serving member that has more nodes than the average tells those beyond it to leave for members that have fewer, so many in a second. It answers when they have begun.",
		DefaultStatus: http.StatusAccepted,
		MaxBodyBytes:  s.cfg.MaxBodyBytes, BodyReadTimeout: s.cfg.ReadTimeout,
		Errors: s.errors(http.StatusBadRequest, http.StatusForbidden, http.StatusRequestTimeout,
			http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusServiceUnavailable),
	}, s.rebalance)
}

func (s *Server) members(ctx context.Context, _ *struct{}) (*membersOutput, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	l, err := s.backend.Members(ctx)
	if err != nil {
		return nil, problem("members", err)
	}
	l.Members = completeMembers(l.Members)
	return &membersOutput{Body: l}, nil
}

func (s *Server) drain(ctx context.Context, in *drainInput) (*memberOutput, error) {
	var r DrainRequest
	if in.Body != nil {
		r = *in.Body
	}
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	v, err := s.backend.Drain(ctx, in.Name, r)
	if err != nil {
		return nil, problem("member "+in.Name, err)
	}
	return &memberOutput{Body: v.complete()}, nil
}

func (s *Server) undrain(ctx context.Context, in *undrainInput) (*memberOutput, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	v, err := s.backend.Undrain(ctx, in.Name)
	if err != nil {
		return nil, problem("member "+in.Name, err)
	}
	return &memberOutput{Body: v.complete()}, nil
}

func (s *Server) rebalance(ctx context.Context, in *rebalanceInput) (*rebalanceOutput, error) {
	var r RebalanceRequest
	if in.Body != nil {
		r = *in.Body
	}
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	v, err := s.backend.Rebalance(ctx, r)
	if err != nil {
		return nil, problem("rebalance", err)
	}
	v.Moves = slices.Clone(list(v.Moves))
	for i := range v.Moves {
		v.Moves[i].To = list(v.Moves[i].To)
	}
	return &rebalanceOutput{Body: v}, nil
}

func completeMembers(members []MemberView) []MemberView {
	out := make([]MemberView, len(members))
	for i := range members {
		out[i] = members[i].complete()
	}
	return out
}

// complete returns the view as the document promises it: no null where there is a list.
func (v MemberView) complete() MemberView {
	v.Partitions = list(v.Partitions)
	if v.Drain != nil && v.Drain.To == nil {
		d := *v.Drain
		d.To = []string{}
		v.Drain = &d
	}
	return v
}
