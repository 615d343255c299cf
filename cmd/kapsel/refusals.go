package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

type endpointsRefusals struct{ endpointID }

// Help has examples.
func (endpointsRefusals) Help() string {
	return `Shows the last 50 webhooks that were answered with an error and not stored, with what their senders
were told, and how many there were since the node that answers was started. Each node remembers
its own. kapsel endpoints stats counts those of all nodes by the hour.

Examples:
  kapsel endpoints refusals orders
  kapsel endpoints refusals orders --json`
}

func (c endpointsRefusals) do(ctx context.Context, s *session) error {
	id, err := c.id(ctx, s)
	if err != nil {
		return err
	}
	found, err := s.GetRefusals(ctx, id)
	if err != nil {
		return err
	}
	return s.show(found.EndpointID, func(w io.Writer) {
		rows := [][]string{{"TIME", "STATUS", "CODE", "DETAIL"}}
		for _, r := range found.Data {
			rows = append(rows, []string{at(r.Time), fmt.Sprint(r.Status), or(r.Code), r.Detail})
		}
		if len(found.Data) > 0 {
			table(w, rows)
			fmt.Fprintln(w)
		}
		var counts []string
		for _, code := range slices.Sorted(maps.Keys(found.Counts)) {
			counts = append(counts, fmt.Sprintf("%s: %d", code, found.Counts[code]))
		}
		card(w, fact{"refused", fmt.Sprint(found.Total)}, fact{"by code", strings.Join(counts, ", ")}, fact{"since", at(found.Since)})
	})
}
