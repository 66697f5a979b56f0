package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"

	"github.com/danielgtaylor/huma/v2"
	"github.com/oklog/ulid/v2"

	"github.com/roost-server/roost/protocol/record"
)

type submitInput struct {
	Body JobRequest
}

type submitOutput struct {
	Status   int
	Location string `header:"Location" doc:"Where the job can be looked at"`
	Body     any    // Accepted or Known
}

type jobInput struct {
	ID string `path:"id" minLength:"1" maxLength:"128" doc:"The job's id"`
}

type jobOutput struct{ Body JobView }

type cancelInput struct {
	ID   string `path:"id" minLength:"1" maxLength:"128" doc:"The job's id"`
	Body *CancelRequest
}

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
	Jobs       []JobView `json:"jobs" nullable:"false"`
	Rebuilding []int32   `json:"rebuilding,omitempty" nullable:"false" doc:"Partitions that are being rebuilt, or that no member owns at the moment: their jobs are missing here"`
	Missing
}

func (s *Server) registerJobs() {
	huma.Register(s.huma, huma.Operation{
		OperationID: "submit-job", Method: http.MethodPost, Path: "/v1/jobs", Tags: []string{"jobs"},
		Summary:       "Submit a job",
		Description:   "Answers when Kafka has acknowledged the record. After an answer of 503 or none at all the job may have been accepted; look for its id before submitting it again.",
		DefaultStatus: http.StatusAccepted,
		Responses: map[string]*huma.Response{
			"200": s.answer("The id is known: the first job with it. Nothing was submitted", Known{}),
			"202": s.answer("Accepted: Kafka has it", Accepted{}),
		},
		MaxBodyBytes: s.cfg.MaxBodyBytes, BodyReadTimeout: s.cfg.ReadTimeout,
		Errors: s.errors(http.StatusBadRequest, http.StatusForbidden, http.StatusRequestTimeout,
			http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusServiceUnavailable),
	}, s.submit)
	huma.Register(s.huma, huma.Operation{
		OperationID: "get-job", Method: http.MethodGet, Path: "/v1/jobs/{id}", Tags: []string{"jobs"},
		Summary:     "Look at a job",
		Description: "Shows an open or recent job of any member, with its results. The results topic has all of them. While a member that may have it does not answer: 503, which names it.",
		Errors:      s.errors(http.StatusNotFound, http.StatusGone, http.StatusServiceUnavailable),
	}, s.job)
	huma.Register(s.huma, huma.Operation{
		OperationID: "cancel-job", Method: http.MethodPost, Path: "/v1/jobs/{id}/cancel", Tags: []string{"jobs"},
		Summary:       "Cancel a job",
		Description:   "Answers with the job as it is when Kafka has acknowledged the cancel record. Each assignment that has not ended gets the outcome cancelled soon after: look at the job, or follow it.",
		DefaultStatus: http.StatusAccepted,
		MaxBodyBytes:  s.cfg.MaxBodyBytes, BodyReadTimeout: s.cfg.ReadTimeout,
		Errors: s.errors(http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound, http.StatusRequestTimeout, http.StatusConflict,
			http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusServiceUnavailable),
	}, s.cancel)
	huma.Register(s.huma, huma.Operation{
		OperationID: "list-jobs", Method: http.MethodGet, Path: "/v1/jobs", Tags: []string{"jobs"},
		Summary:     "List jobs, the most recent first",
		Description: "Shows the open and the recent jobs of all members; missing_members names those that did not answer.",
		Errors:      s.errors(http.StatusServiceUnavailable),
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
	id := job.ID // before Submit, which takes the job over
	out := &submitOutput{Status: http.StatusAccepted, Location: "/v1/jobs/" + url.PathEscape(id), Body: Accepted{ID: id, Key: job.Key()}}
	err = s.backend.Submit(ctx, job)
	if dup := (*Duplicate)(nil); errors.As(err, &dup) {
		out.Status, out.Body = http.StatusOK, Known{JobView: dup.Job.complete(), Duplicate: true}
		return out, nil
	}
	if err != nil {
		return nil, problem("job "+id, err)
	}
	return out, nil
}

// cancel has the job's open assignments end with the outcome cancelled.
func (s *Server) cancel(ctx context.Context, in *cancelInput) (*jobOutput, error) {
	reason := ""
	if in.Body != nil {
		reason = in.Body.Reason
	}
	if len(reason) > record.MaxReasonBytes {
		return nil, invalid(fmt.Errorf("reason: %d bytes; at most %d are allowed", len(reason), record.MaxReasonBytes))
	}
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	v, err := s.backend.Cancel(ctx, in.ID, reason)
	switch {
	case errors.Is(err, ErrEnded):
		return nil, newProblem(http.StatusConflict, "job "+in.ID+": "+err.Error())
	case err != nil:
		return nil, problem("job "+in.ID, err)
	}
	return &jobOutput{Body: v.complete()}, nil
}

// answer describes one of several answers of an operation.
func (s *Server) answer(description string, body any) *huma.Response {
	schema := s.huma.OpenAPI().Components.Schemas.Schema(reflect.TypeOf(body), true, "")
	return &huma.Response{Description: description, Content: map[string]*huma.MediaType{"application/json": {Schema: schema}}}
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
	out := &jobsOutput{Body: JobList{Jobs: make([]JobView, len(list.Jobs)), Rebuilding: list.Rebuilding, Missing: list.Missing}}
	for i := range list.Jobs {
		out.Body.Jobs[i] = list.Jobs[i].summary()
	}
	return out, nil
}

// complete returns the view as the document promises it: no null where there is a map, and no more
// assignments than are allowed.
func (v JobView) complete() JobView {
	if v.Outcomes == nil {
		v.Outcomes = map[string]int{}
	}
	if len(v.Assignments) > MaxAssignments {
		v.Assignments = v.Assignments[:MaxAssignments]
		v.Truncated = true
	}
	return v
}

// summary is the view without results and assignments.
func (v JobView) summary() JobView {
	v.Results, v.Assignments = nil, nil
	return v.complete()
}
