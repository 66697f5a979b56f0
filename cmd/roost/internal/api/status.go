package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// Health is the answer of /healthz and /readyz.
type Health struct {
	Status string `json:"status" enum:"alive,ready"`
}

type healthOutput struct{ Body Health }

type statusOutput struct{ Body StatusView }

// WatermarkList is how far the partitions are done.
type WatermarkList struct {
	Watermarks []WatermarkView `json:"watermarks" nullable:"false" doc:"Ordered by partition"`
	Missing
}

type watermarksOutput struct{ Body WatermarkList }

func (s *Server) registerStatus() {
	huma.Register(s.huma, huma.Operation{
		OperationID: "get-status", Method: http.MethodGet, Path: "/v1/status", Tags: []string{"member"},
		Summary:     "Look at the member and its cluster",
		Description: "The member that is asked, and the partitions and members of the whole cluster; missing_members names those that did not answer.",
		Errors:      s.errors(http.StatusServiceUnavailable),
	}, s.status)
	huma.Register(s.huma, huma.Operation{
		OperationID: "list-watermarks", Method: http.MethodGet, Path: "/v1/watermarks", Tags: []string{"jobs"},
		Summary:     "See how far the partitions are done",
		Description: "The low watermarks of the partitions of all members that answered, as they are now: what the topic roost.progress says of them is committed, and may be a little older.",
		Errors:      s.errors(http.StatusServiceUnavailable),
	}, s.watermarks)
	open := []map[string][]string{{}}
	huma.Register(s.huma, huma.Operation{
		OperationID: "get-health", Method: http.MethodGet, Path: "/healthz", Tags: []string{"member"},
		Summary: "Tell whether the process is alive; never asks for the token", Security: open,
	}, func(context.Context, *struct{}) (*healthOutput, error) {
		return &healthOutput{Body: Health{Status: "alive"}}, nil
	})
	// Added for endpoints without errors of their own; this one has none at all.
	delete(s.huma.OpenAPI().Paths["/healthz"].Get.Responses, "default")
	huma.Register(s.huma, huma.Operation{
		OperationID: "get-readiness", Method: http.MethodGet, Path: "/readyz", Tags: []string{"member"},
		Summary: "Tell whether the member can serve, and why not; never asks for the token", Security: open,
		Errors: []int{http.StatusServiceUnavailable},
	}, s.ready)
	text := map[string]*huma.MediaType{}
	for _, ct := range []string{"text/plain", "application/openmetrics-text"} {
		text[ct] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString}}
	}
	huma.Register(s.huma, huma.Operation{
		OperationID: "get-metrics", Method: http.MethodGet, Path: "/metrics", Tags: []string{"member"},
		Summary:   "Metrics in Prometheus' text format",
		Responses: map[string]*huma.Response{"200": {Description: "The metrics", Content: text}},
		Errors:    s.errors(),
		// The scraper adds parameters of its configuration.
		SkipValidateParams: true,
	}, s.metrics)
}

func (s *Server) status(ctx context.Context, _ *struct{}) (*statusOutput, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	v, err := s.backend.Status(ctx)
	if err != nil {
		return nil, problem("status", err)
	}
	v.Gates, v.Shards = list(v.Gates), list(v.Shards)
	v.Members = completeMembers(v.Members)
	if v.Jobs.Outcomes == nil {
		v.Jobs.Outcomes = map[string]uint64{}
	}
	return &statusOutput{Body: v}, nil
}

func (s *Server) watermarks(ctx context.Context, _ *struct{}) (*watermarksOutput, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	marks, err := s.backend.Watermarks(ctx)
	if err != nil {
		return nil, problem("watermarks", err)
	}
	marks.Watermarks = list(marks.Watermarks)
	return &watermarksOutput{Body: marks}, nil
}

func (s *Server) ready(ctx context.Context, _ *struct{}) (*healthOutput, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	if s.closing.Err() != nil {
		return nil, unavailable("the member stops", defaultRetryAfter)
	}
	err := s.backend.Ready(ctx)
	if err == nil {
		return &healthOutput{Body: Health{Status: "ready"}}, nil
	}
	reasons := []error{err}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		reasons = many.Unwrap()
	}
	return nil, unavailable("the member cannot serve yet", defaultRetryAfter, reasons...)
}

func (s *Server) metrics(context.Context, *struct{}) (*huma.StreamResponse, error) {
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		r, w := humago.Unwrap(hc)
		s.backend.Metrics().ServeHTTP(w, r)
	}}, nil
}
