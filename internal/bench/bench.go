// Package bench is the tool `kapsel bench`: it compares Kapsel, or another gateway, with a relay that does
// as little as a Go gateway can.
//
//   - ServeRelay is that relay: it appends to a file, syncs, answers and forwards.
//   - Compare loads gateways with package harness, in turns, and returns a Report.
package bench

import "slices"

// median returns the middle value, the lower one of two; 0 if there are no values.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	return s[(len(s)-1)/2]
}
