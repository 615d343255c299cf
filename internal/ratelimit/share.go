package ratelimit

import (
	"cmp"
	"math"
	"slices"
)

// reserve is the fraction of a limit that is always divided evenly, whatever the demands, so that
// a node whose traffic has just begun has something to start with.
const reserve = 0.05

// Share returns what the node at index i may use of a limit that several nodes share, given each
// node's demand. If the demands fit, each node gets what it demands and an equal part of what is
// left over. If not, the limit is divided in proportion to the demands, except for reserve, which
// is divided evenly. The shares of all nodes add up to the limit. Demands must not be negative; if
// all are zero, the shares are equal.
func Share(limit float64, demands []float64, i int) float64 {
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

// Places is Share for whole numbers, such as exchanges at a time. If the limit does not divide
// evenly, turn decides which nodes get the remainder; different turns, such as those of different
// endpoints, favour different nodes. held is what each node uses already, which may exceed its
// share if that has shrunk. A node never gets a place that another node still holds.
func Places(limit int, demands []float64, held []int, i, turn int) int {
	n := len(demands)
	if n <= 1 {
		return limit
	}
	whole, rest := make([]int, n), make([]float64, n)
	order := make([]int, n)
	left, others := limit, 0
	for j := range n {
		share := Share(float64(limit), demands, j)
		whole[j] = int(share)
		rest[j] = math.Round((share-float64(whole[j]))*1e6) / 1e6 // rounded, so that equal demands compare as equal
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

// BurstShare returns a fraction (0 to 1) of a burst, rounded, but at least 1.
func BurstShare(burst int, fraction float64) int {
	return max(1, int(math.Round(float64(burst)*fraction)))
}

// Meter turns counts that vary by chance into a steady demand. Without it, nodes would publish new
// demands all the time and their shares would never add up. The zero Meter has seen nothing.
type Meter struct{ mean, told float64 }

// Note adds a count and returns the demand. A change too large for chance takes effect at once: in
// full upwards, by half downwards. Smaller changes go into a running mean, and the demand follows
// the mean once it is off by a quarter.
func (m *Meter) Note(count float64) (demand float64) {
	chance := 3 * math.Sqrt(max(m.mean, 1)) // three standard deviations of a Poisson count
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
