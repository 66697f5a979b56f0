package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
)

type nodesInput struct {
	Country  string `query:"country" maxLength:"3" doc:"ISO 3166-1 code" example:"AU"`
	City     string `query:"city" maxLength:"256"`
	ASN      uint32 `query:"asn" format:"int64" minimum:"1" maximum:"4294967295" doc:"Autonomous system number"`
	Tag      string `query:"tag" maxLength:"64" doc:"Nodes with this tag"`
	Kind     string `query:"kind" maxLength:"64" doc:"Nodes that run this kind of job"`
	Platform string `query:"platform" maxLength:"256" example:"linux/arm64"`
	Prefix   string `query:"prefix" maxLength:"128" doc:"Nodes whose id begins so"`
	Limit    int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"At most this many on a page"`
	Cursor   string `query:"cursor" maxLength:"1024" doc:"The next of the page before"`
}

type nodesOutput struct{ Body NodePage }

type nodeInput struct {
	ID string `path:"id" minLength:"1" maxLength:"128" doc:"The node's id"`
}

type nodeOutput struct{ Body NodeView }

func (s *Server) registerNodes() {
	huma.Register(s.huma, huma.Operation{
		OperationID: "list-nodes", Method: http.MethodGet, Path: "/v1/nodes", Tags: []string{"nodes"},
		Summary: "List the connected nodes, ordered by id",
		Errors:  s.errors(http.StatusBadRequest, http.StatusServiceUnavailable),
	}, s.nodes)
	huma.Register(s.huma, huma.Operation{
		OperationID: "get-node", Method: http.MethodGet, Path: "/v1/nodes/{id}", Tags: []string{"nodes"},
		Summary: "Look at a connected node",
		Errors:  s.errors(http.StatusNotFound, http.StatusServiceUnavailable),
	}, s.node)
}

func (s *Server) nodes(ctx context.Context, in *nodesInput) (*nodesOutput, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	page, err := s.backend.Nodes(ctx, NodeFilter(*in))
	if err != nil {
		return nil, problem("nodes", err)
	}
	nodes := make([]NodeView, len(page.Nodes))
	for i := range page.Nodes {
		nodes[i] = page.Nodes[i].complete()
	}
	page.Nodes = nodes
	return &nodesOutput{Body: page}, nil
}

func (s *Server) node(ctx context.Context, in *nodeInput) (*nodeOutput, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	v, err := s.backend.Node(ctx, in.ID)
	if err != nil {
		return nil, problem("node "+in.ID, err)
	}
	return &nodeOutput{Body: v.complete()}, nil
}

// complete returns the view as the document promises it: no null where there is a list.
func (v NodeView) complete() NodeView {
	v.Tags, v.Kinds = list(v.Tags), list(v.Kinds)
	return v
}

func list[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}
