package api_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/cmd/roost/internal/api"
	"github.com/roost-server/roost/cmd/roost/internal/api/apitest"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

func TestDocsLoadNothingFromElsewhere(t *testing.T) {
	h := start(t, api.Config{Version: "1.2.3"}, apitest.New(nil))
	res, b := h.do("GET", "/docs", "")
	require.Equal(t, 200, res.StatusCode)
	require.Contains(t, res.Header.Get("Content-Security-Policy"), "default-src 'none'")
	page := string(b)
	require.NotRegexp(t, `(?i)<script|<link|src=|https?://`, page)
	for path := range h.doc.Paths.Map() {
		require.Contains(t, page, path)
	}
	require.Contains(t, page, "1.2.3")
	res, b = h.do("GET", "/openapi.yaml", "")
	require.Equal(t, 200, res.StatusCode)
	require.Contains(t, string(b), "/v1/jobs/{id}/events:")
}

// The limits in the document are text in struct tags; they have to be those of the record.
func TestDocumentRepeatsTheLimits(t *testing.T) {
	h := start(t, api.Config{}, apitest.New(nil))
	schema := func(name, field string) (maximum float64, maxLength uint64, enum []any) {
		p := h.doc.Components.Schemas[name].Value.Properties[field].Value
		require.NotNil(t, p, "%s.%s", name, field)
		if p.Max != nil {
			maximum = *p.Max
		}
		if p.MaxLength != nil {
			maxLength = *p.MaxLength
		}
		if p.MaxItems != nil {
			maxLength = *p.MaxItems
		}
		return maximum, maxLength, p.Enum
	}
	_, reason, _ := schema("CancelRequest", "reason")
	require.Equal(t, uint64(record.MaxReasonBytes), reason)
	_, most, _ := schema("JobView", "assignments")
	require.Equal(t, uint64(api.MaxAssignments), most)
	for field, want := range map[string]int{
		"backoff_ms": int(record.MaxBackoff.Milliseconds()),
		"timeout_ms": protocol.MaxTimeoutMs, "attempts": protocol.MaxAttempts, "priority": protocol.MaxPriority,
		"ttl_ms": int(record.MaxTTL.Milliseconds()),
	} {
		got, _, _ := schema("JobRequest", field)
		require.Equal(t, float64(want), got, field)
	}
	for field, want := range map[string]int{"id": protocol.MaxJobIDBytes, "kind": protocol.MaxKindBytes, "tenant": record.MaxTenantBytes} {
		_, got, _ := schema("JobRequest", field)
		require.Equal(t, uint64(want), got, field)
	}
	_, got, _ := schema("TargetRequest", "nodes")
	require.Equal(t, uint64(record.MaxTargets), got)
	_, got, _ = schema("TargetRequest", "node")
	require.Equal(t, uint64(protocol.MaxNodeIDBytes), got)
	count, _, _ := schema("SelectorRequest", "count")
	require.Equal(t, float64(record.MaxTargets), count)
	for field, want := range map[string]int{"country": protocol.MaxCountryBytes, "city": protocol.MaxTextBytes, "platform": protocol.MaxTextBytes, "tags": protocol.MaxTags} {
		_, got, _ := schema("SelectorRequest", field)
		require.Equal(t, uint64(want), got, field)
	}
	var outcomes []any
	for _, o := range protocol.Outcomes() {
		outcomes = append(outcomes, o.String())
	}
	_, _, enum := schema("ResultView", "outcome")
	require.Equal(t, outcomes, enum)
	_, _, enum = schema("AssignmentView", "outcome")
	require.Equal(t, outcomes, enum)
	require.Equal(t, time.Second, record.DefaultBackoff, "as in the text of backoff_ms")
	require.Equal(t, 30*time.Second, record.DefaultTimeout, "as in the text of timeout_ms")
	require.Equal(t, time.Hour, record.DefaultTTL, "as in the text of ttl_ms")
	require.Equal(t, 3, record.DefaultAttempts, "as in the text of attempts")
}
