//go:build linux

package remote

// share divides total things by weight, by the method of Webster and Sainte-Laguë: whole
// numbers that add up to total and never become smaller when total grows. No weight is
// negative, and one at least is not 0.
func share(total int, weights []int) []int {
	sum := 0
	for _, w := range weights {
		sum += w
	}
	out := make([]int, len(weights))
	left := total
	for i, w := range weights {
		// Surely not too many: the rounded shares are off by half a thing each.
		lower := (float64(total)-float64(len(weights))/2)*float64(w)/float64(sum) - 1.5
		out[i] = max(0, int(lower))
		left -= out[i]
	}
	for ; left > 0; left-- {
		next := -1
		for i, w := range weights {
			if w > 0 && (next < 0 || before(out[i], w, out[next], weights[next])) {
				next = i
			}
		}
		out[next]++
	}
	return out
}

// before tells whether one more of a with weight wa comes before one more of b with wb.
func before(a, wa, b, wb int) bool { return (2*a+1)*wb < (2*b+1)*wa }
