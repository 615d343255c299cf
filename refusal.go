package kapsel

import "time"

// Refusal is a webhook that was answered with an error and not stored. Detail is
// what the answer said.
type Refusal struct {
	At     time.Time
	Status int
	Code   Code // "" for a bug
	Detail string
}

// Refused holds what a node remembers of an endpoint's refused webhooks.
type Refused struct {
	Since  time.Time      // when the node began to remember; later if the endpoint may have been forgotten
	Counts map[Code]int64 // all refusals since Since, by code
	Last   []Refusal      // the latest refusals, newest first
}
