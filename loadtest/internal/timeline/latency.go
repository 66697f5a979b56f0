package timeline

import (
	"fmt"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// NewLatency reads a histogram of microseconds. It returns nil for one without values,
// which is how a sample says that nothing ended.
func NewLatency(h *hdrhistogram.Histogram) (*Latency, error) {
	if h == nil || h.TotalCount() == 0 {
		return nil, nil
	}
	b, err := h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	if err != nil {
		return nil, fmt.Errorf("latencies: %w", err)
	}
	at := func(p float64) float64 { return float64(h.ValueAtPercentile(p)) / 1e3 }
	return &Latency{
		Count: h.TotalCount(), P50Ms: at(50), P99Ms: at(99), P999Ms: at(99.9),
		MaxMs: float64(h.Max()) / 1e3, Buckets: b,
	}, nil
}

// Histogram returns the whole distribution, in microseconds, or nil when there are no
// buckets.
func (l *Latency) Histogram() (*hdrhistogram.Histogram, error) {
	if l == nil || len(l.Buckets) == 0 {
		return nil, nil
	}
	h, err := hdrhistogram.Decode(l.Buckets)
	if err != nil {
		return nil, fmt.Errorf("latencies: %w", err)
	}
	return h, nil
}

// Add makes one distribution of several, such as the workers' or those of adjacent
// seconds. Nil ones are left out; of nothing it returns nil.
func Add(parts ...*Latency) (*Latency, error) {
	var sum *hdrhistogram.Histogram
	for _, p := range parts {
		h, err := p.Histogram()
		if err != nil {
			return nil, err
		}
		switch {
		case h == nil:
		case sum == nil:
			sum = h
		default:
			if dropped := sum.Merge(h); dropped > 0 {
				return nil, fmt.Errorf("latencies: %d values are beyond the range of the distribution that they are added to", dropped)
			}
		}
	}
	return NewLatency(sum)
}
