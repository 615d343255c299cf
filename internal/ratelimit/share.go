package ratelimit

import (
	"cmp"
	"math"
	"slices"
)

// reserve is the part of a limit that is divided evenly however much is demanded, so that a
// node where work begins can start with it.
const reserve = 0.05

// Part is what the node at index i may use of a limit that several nodes share, by what each
// demands of it. All parts together are the limit: nodes get what they demand and equal parts
// of what is left over; where more is demanded than there is, in proportion. Demands are not
// negative; without any, or of one node alone, parts are equal.
func Part(limit float64, demands []float64, i int) float64 {
	all := 0.0
	for _, d := range demands {
		all += d
	}
	n := float64(len(demands))
	if len(demands) <= 1 || !(all > 0) {
		return limit / max(n, 1)
	}
	spare := max(limit-all, reserve*limit)
	return spare/n + (limit-spare)*(demands[i]/all)
}

// Places is Part for what comes in whole numbers, such as exchanges at once. All parts
// together are the limit. turn decides who gets what does not divide: different turns, such
// as those of endpoints, favour different nodes. held is what the nodes use already, which
// may be more than their part when that has shrunk: nobody gets what another still holds.
func Places(limit int, demands []float64, held []int, i, turn int) int {
	n := len(demands)
	if n <= 1 {
		return limit
	}
	whole, rest := make([]int, n), make([]float64, n)
	order := make([]int, n)
	left, others := limit, 0
	for j := range n {
		part := Part(float64(limit), demands, j)
		whole[j] = int(part)
		rest[j] = math.Round((part-float64(whole[j]))*1e6) / 1e6 // equal demands are equal
		left -= whole[j]
		order[j] = j
		if j != i {
			others += held[j]
		}
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(rest[b], rest[a]), cmp.Compare((a+turn)%n, (b+turn)%n))
	})
	if slices.Contains(order[:min(max(left, 0), n)], i) {
		whole[i]++
	}
	return max(0, min(whole[i], limit-others))
}

// BurstPart is the burst of a part of a limit, 0 to 1: rounded, and at least one.
func BurstPart(burst int, part float64) int { return max(1, int(math.Round(float64(burst)*part))) }

// Meter makes a steady demand of counts that vary by chance: shares that moved with each of
// them would never add up. The zero Meter has seen nothing.
type Meter struct{ mean, told float64 }

// Note takes note of one more count and returns the demand. A change that is hardly chance
// counts at once, upwards in full and downwards by half; others go into a mean, and the
// demand follows that only when it has moved by a quarter.
func (m *Meter) Note(count float64) (demand float64) {
	chance := 3 * math.Sqrt(max(m.mean, 1)) // three standard deviations of what comes at random
	switch {
	case count > 1.5*m.mean && count > m.mean+chance:
		m.mean = count
	case count < m.mean/2 && count < m.mean-chance:
		m.mean /= 2
	default:
		m.mean += (count - m.mean) / 4
	}
	if math.Abs(m.mean-m.told) > m.told/4 {
		m.told = m.mean
	}
	return m.told
}
