package api

import (
	"context"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"
)

// TreeList is the supervision trees of members.
type TreeList struct {
	Trees []TreeView `json:"trees" nullable:"false" doc:"Ordered by member"`
	Missing
}

// TreeView is the supervision tree of one member.
type TreeView struct {
	Member string      `json:"member"`
	Actors []ActorView `json:"actors" nullable:"false" doc:"Parents before children"`
}

// ActorView is one actor of a tree, or all the sessions of one event loop.
type ActorView struct {
	Path     string       `json:"path" doc:"Its name and those above it, with slashes between" example:"member/shards/shard-5"`
	Count    int          `json:"count" minimum:"0" doc:"How many there are: 1, other than of sessions, and 0 of one that is not there at the moment"`
	Restarts uint64       `json:"restarts" doc:"Since the member's start; of sessions, which are never restarted, those that were stopped"`
	Failure  *FailureView `json:"last_failure,omitempty"`
}

// FailureView is the last failure of an actor.
type FailureView struct {
	TimeMs int64  `json:"time_ms" doc:"Unix time in milliseconds"`
	Reason string `json:"reason"`
	Action string `json:"action" enum:"restarted,stopped,escalated" doc:"What its supervisor did"`
}

type treeInput struct {
	Member string `query:"member" maxLength:"256" doc:"Only of the member with this name"`
}

type treeOutput struct{ Body TreeList }

func (s *Server) registerTree() {
	huma.Register(s.huma, huma.Operation{
		OperationID: "get-tree", Method: http.MethodGet, Path: "/v1/tree", Tags: []string{"cluster"},
		Summary:     "Look at the supervision trees",
		Description: "The actors of each member with their restarts and last failures; missing_members names those that did not answer.",
		Errors:      s.errors(http.StatusNotFound, http.StatusServiceUnavailable),
	}, s.tree)
}

func (s *Server) tree(ctx context.Context, in *treeInput) (*treeOutput, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	l, err := s.backend.Tree(ctx, in.Member)
	if err != nil {
		return nil, problem("tree of member "+in.Member, err)
	}
	l.Trees = slices.Clone(list(l.Trees))
	for i := range l.Trees {
		l.Trees[i].Actors = list(l.Trees[i].Actors)
	}
	return &treeOutput{Body: l}, nil
}
