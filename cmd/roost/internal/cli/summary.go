package cli

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/roost-server/roost/cmd/roost/internal/api"
	"github.com/roost-server/roost/cmd/roost/internal/probe"
)

// maxDetail is how much of an error or an output fits a row, in characters.
const maxDetail = 100

// detail says in a few words what came of an assignment: why it is not ok, or what was measured.
func detail(r *api.ResultView) string {
	text := r.Error
	if text == "" && len(r.Output) > 0 {
		text = summarize(r.Kind, r.Output)
	}
	return shorten(clean(text), maxDetail)
}

// summarize tells the output of a kind in a few words; of kinds that it does not know, the JSON.
func summarize(kind string, output json.RawMessage) string {
	switch kind {
	case "http":
		return summary(output, httpSummary)
	case "tcp":
		return summary(output, tcpSummary)
	case "udp":
		return summary(output, udpSummary)
	case "dns":
		return summary(output, dnsSummary)
	case "ping":
		return summary(output, pingSummary)
	case "traceroute":
		return summary(output, tracerouteSummary)
	}
	return compact(output)
}

// summary falls back to JSON when the output is not the kind's: a node may have its own.
func summary[O any](output json.RawMessage, f func(*O) string) string {
	var o O
	if err := json.Unmarshal(output, &o); err == nil {
		if text := f(&o); text != "" {
			return text
		}
	}
	return compact(output)
}

func compact(output json.RawMessage) string {
	if s := string(output); s != "null" {
		return s
	}
	return ""
}

func httpSummary(o *probe.HTTPOutput) string {
	if o.Status == 0 {
		return ""
	}
	parts := []string{fmt.Sprintf("%d, %s", o.Status, formatBytes(float64(o.Bytes)))}
	if o.Location != "" {
		parts = append(parts, "to "+o.Location)
	}
	if o.FirstByteMs != nil {
		parts = append(parts, "first byte "+formatMs(*o.FirstByteMs))
	}
	if o.Certificate != nil {
		parts = append(parts, fmt.Sprintf("certificate %.0f days", o.Certificate.DaysLeft))
	}
	return strings.Join(parts, ", ")
}

func tcpSummary(o *probe.TCPOutput) string {
	if o.ConnectMs == nil {
		return ""
	}
	text := fmt.Sprintf("%s, connected in %s", o.RemoteAddr, formatMs(*o.ConnectMs))
	if o.ReceivedBytes > 0 {
		text += fmt.Sprintf(", received %s", formatBytes(float64(o.ReceivedBytes)))
	}
	return text
}

func udpSummary(o *probe.UDPOutput) string {
	switch {
	case o.RemoteAddr == "":
		return ""
	case !o.Replied || o.RTTMs == nil:
		return o.RemoteAddr + ", no reply"
	}
	return fmt.Sprintf("%s, reply of %s in %s", o.RemoteAddr, formatBytes(float64(o.ReceivedBytes)), formatMs(*o.RTTMs))
}

func dnsSummary(o *probe.DNSOutput) string {
	if o.Rcode == "" {
		return ""
	}
	values := make([]string, 0, len(o.Answers))
	for _, a := range o.Answers {
		if a.Type == o.Type {
			values = append(values, a.Value)
		}
	}
	if len(values) == 0 {
		return o.Rcode
	}
	return strings.Join(values, " ")
}

func pingSummary(o *probe.PingOutput) string {
	if o.Sent == 0 {
		return ""
	}
	text := fmt.Sprintf("%s, %d/%d replies", o.Addr, o.Received, o.Sent)
	if o.AvgMs != nil {
		text += fmt.Sprintf(", avg %s", formatMs(*o.AvgMs))
	}
	return text
}

func tracerouteSummary(o *probe.TracerouteOutput) string {
	switch {
	case len(o.Hops) == 0:
		return ""
	case o.Reached:
		return fmt.Sprintf("%s reached in %s", o.Addr, plural(len(o.Hops), "hop"))
	}
	return fmt.Sprintf("%s not reached in %s", o.Addr, plural(len(o.Hops), "hop"))
}
