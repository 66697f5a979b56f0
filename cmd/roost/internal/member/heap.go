package member

import (
	"os"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
)

// Go lets the heap grow to twice what is alive before it collects: with a million nodes that
// is a gigabyte more than they need. So above heapAllowance the heap may grow by that much
// and no longer by as much again; the larger it is, the more often it is collected, at
// most each time that it has grown by heapLeast percent. GOGC in the environment overrides it.
const (
	heapAllowance = 256 << 20
	heapLeast     = 25
	heapStep      = 5 // percent; smaller changes are not worth stopping the world
	heapDefault   = 100
)

// heapPercent returns how many percent of what is alive the heap may grow.
func heapPercent(liveBytes uint64) int {
	if liveBytes <= heapAllowance {
		return heapDefault
	}
	return max(heapLeast, int(heapAllowance*100/liveBytes)/heapStep*heapStep)
}

// heapPace follows the live heap.
type heapPace struct {
	percent int // 0: the environment decides
	live    [1]runtimemetrics.Sample
}

func newHeapPace() *heapPace {
	p := &heapPace{percent: heapDefault}
	if os.Getenv("GOGC") != "" {
		p.percent = 0
	}
	p.live[0].Name = "/gc/heap/live:bytes" // as of the last collection
	return p
}

// tick sets the percentage anew when it has changed.
func (p *heapPace) tick() {
	if p.percent == 0 {
		return
	}
	runtimemetrics.Read(p.live[:])
	if v := p.live[0].Value; v.Kind() == runtimemetrics.KindUint64 {
		p.set(heapPercent(v.Uint64()))
	}
}

func (p *heapPace) set(percent int) {
	if p.percent != 0 && p.percent != percent {
		p.percent = percent
		debug.SetGCPercent(percent)
	}
}

// stop leaves the process as it was.
func (p *heapPace) stop() { p.set(heapDefault) }
