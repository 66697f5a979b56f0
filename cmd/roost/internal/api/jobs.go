package api

import (
	"context"
	"net/http"
	"net/url"

	"github.com/danielgtaylor/huma/v2"
	"github.com/oklog/ulid/v2"
)

type submitInput struct {
	Body JobRequest
}

type submitOutput struct {
	Location string `header:"Location" doc:"Where the job can be looked at"`
	Body     Accepted
}

type jobInput struct {
	ID string `path:"id" minLength:"1" maxLength:"128" doc:"The job's id"`
}

type jobOutput struct{ Body JobView }

type jobsInput struct {
	State  string `query:"state" enum:"waiting,running,done" doc:"Only jobs in this state"`
	Tenant string `query:"tenant" maxLength:"64" doc:"Only jobs of this tenant"`
	Node   string `query:"node" maxLength:"128" doc:"Only jobs for this node"`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"At most this many"`
}

type jobsOutput struct {
	Body JobList
}

// JobList is a list of jobs, the most recent first.
type JobList struct {
	Jobs []JobView `json:"jobs" nullable:"false"`
}

func (s *Server) registerJobs() {
	huma.Register(s.huma, huma.Operation{
		OperationID: "submit-job", Method: http.MethodPost, Path: "/v1/jobs", Tags: []string{"jobs"},
		Summary:       "Submit a job",
		Description:   "Answers when Kafka has acknowledged the record. After an answer of 503 or none at all the job may have been accepted; look for its id before submitting it again.",
		DefaultStatus: http.StatusAccepted,
		MaxBodyBytes:  s.cfg.MaxBodyBytes, BodyReadTimeout: s.cfg.ReadTimeout,
		Errors: s.errors(http.StatusBadRequest, http.StatusForbidden, http.StatusRequestTimeout,
			http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusServiceUnavailable),
	}, s.submit)
	huma.Register(s.huma, huma.Operation{
		OperationID: "get-job", Method: http.MethodGet, Path: "/v1/jobs/{id}", Tags: []string{"jobs"},
		Summary:     "Look at a job",
		Description: "Shows recent jobs of the partitions that the member owns, with their results. The results topic has all of them.",
		Errors:      s.errors(http.StatusNotFound, http.StatusServiceUnavailable),
	}, s.job)
	huma.Register(s.huma, huma.Operation{
		OperationID: "list-jobs", Method: http.MethodGet, Path: "/v1/jobs", Tags: []string{"jobs"},
		Summary: "List jobs, the most recent first",
		Errors:  s.errors(http.StatusServiceUnavailable),
	}, s.jobs)
}

func (s *Server) submit(ctx context.Context, in *submitInput) (*submitOutput, error) {
	if in.Body.ID == "" {
		in.Body.ID = ulid.Make().String()
	}
	job, err := in.Body.Record()
	if err != nil {
		return nil, invalid(err)
	}
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	out := &submitOutput{
		Location: "/v1/jobs/" + url.PathEscape(job.ID),
		Body:     Accepted{ID: job.ID, Key: job.Key()}, // before Submit, which takes the job over
	}
	if err := s.backend.Submit(ctx, job); err != nil {
		return nil, problem("job "+out.Body.ID, err)
	}
	return out, nil
}

func (s *Server) job(ctx context.Context, in *jobInput) (*jobOutput, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	v, err := s.backend.Job(ctx, in.ID)
	if err != nil {
		return nil, problem("job "+in.ID, err)
	}
	return &jobOutput{Body: v.complete()}, nil
}

func (s *Server) jobs(ctx context.Context, in *jobsInput) (*jobsOutput, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	list, err := s.backend.Jobs(ctx, JobFilter(*in))
	if err != nil {
		return nil, problem("jobs", err)
	}
	out := &jobsOutput{Body: JobList{Jobs: make([]JobView, len(list))}}
	for i := range list {
		out.Body.Jobs[i] = list[i].summary()
	}
	return out, nil
}

// complete returns the view as the document promises it: no null where there is a map.
func (v JobView) complete() JobView {
	if v.Outcomes == nil {
		v.Outcomes = map[string]int{}
	}
	return v
}

// summary is the view without results.
func (v JobView) summary() JobView {
	v.Results = nil
	return v.complete()
}
