package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/kapsel-hq/kapsel/client"
)

// endpointsOfTop returns an endpoint for each thing that can be wrong with one, and one that is well.
func endpointsOfTop(now time.Time) []client.Endpoint {
	gone, soon, late, one := "gone", now.Add(20*time.Second), now.Add(-5*time.Minute), int64(1)
	endpoint := func(name, circuit string) client.Endpoint {
		return client.Endpoint{ID: "ep_" + name, Name: name, State: client.EndpointStateActive, Circuit: client.Circuit{State: circuit}}
	}
	well, open, half := endpoint("well", "closed"), endpoint("open", "open"), endpoint("half", "half_open")
	open.Circuit.RetryAt = &soon
	paused, throttled, behind, off := endpoint("paused", "closed"), endpoint("throttled", "closed"), endpoint("behind", "closed"), endpoint("off", "closed")
	paused.State, paused.Backlog = client.EndpointStatePaused, &one
	throttled.ThrottledUntil = &soon
	behind.Backlog, behind.OldestWaitingAt = &one, &late
	off.State, off.DisabledReason = client.EndpointStateDisabled, &gone
	return []client.Endpoint{well, paused, throttled, behind, half, open, off}
}

func TestTop_Urgency(t *testing.T) {
	o := &overview{At: time.Now()}
	for _, e := range endpointsOfTop(o.At) {
		o.add(&e)
	}
	failing := 0.5
	o.Endpoints[0].count(&client.Stats{SuccessRate: &failing, Attempts: client.AttemptCounts{Total: 5, Succeeded: 2, ServerErrors: 2, Unknown: 1}})
	o.sort()
	want := []string{"off: disabled: the destination answered 410", "open: the circuit is open: the destination fails; tried again in ", "half: the circuit is half-open",
		"behind: deliveries have been due for 5m", "well: 2 of 4 attempts failed, most: answered 5xx", "throttled: the destination asked for a pause", "paused: paused, and deliveries wait"}
	for i, e := range o.Endpoints {
		if got := e.Name + ": " + e.Why; !strings.HasPrefix(got, want[i]) {
			t.Errorf("place %d is %q, not %q", i, got, want[i])
		}
	}
	if o.Backlog != 2 || o.Open != 2 {
		t.Errorf("%d wait, and %d circuits are open", o.Backlog, o.Open)
	}
}

func TestTop_Rates(t *testing.T) {
	began := time.Now()
	since := &overview{At: began, day: "2026-03-01", used: client.Usage{Events: 100, Attempts: 90, Delivered: 80}}
	now := &overview{At: began.Add(10 * time.Second), day: "2026-03-01", used: client.Usage{Events: 150, Attempts: 110, Delivered: 80}}
	now.rates(since)
	if *now.Accepted != 5 || *now.Attempted != 2 || *now.Delivered != 0 {
		t.Errorf("the rates are %v, %v, %v", *now.Accepted, *now.Attempted, *now.Delivered)
	}
	tomorrow := &overview{At: began.Add(20 * time.Second), day: "2026-03-02", used: client.Usage{Events: 3}}
	if tomorrow.rates(now); tomorrow.Accepted != nil {
		t.Errorf("over midnight the rate is %v", *tomorrow.Accepted)
	}
}

// TestTop_View plays what happens in a terminal.
func TestTop_View(t *testing.T) {
	now := &overview{At: time.Now()}
	for i := range 40 {
		now.add(&client.Endpoint{ID: "ep", Name: fmt.Sprintf("endpoint %02d \x1b[31m", i), State: client.EndpointStateActive, Circuit: client.Circuit{State: "closed"}})
	}
	var model tea.Model = topModel{now: now, server: "http://127.0.0.1:8080", every: time.Second, explain: func(err error) error { return err },
		look: func(since *overview) (*overview, error) { return since, nil }}
	play := func(msg tea.Msg) (lines []string, next tea.Cmd) {
		t.Helper()
		model, next = model.Update(msg)
		lines = strings.Split(model.View().Content, "\n")
		for _, line := range lines {
			if strings.Contains(line, "\x1b") {
				t.Errorf("a line is %q", line)
			}
		}
		return lines, next
	}
	lines, _ := play(tea.WindowSizeMsg{Width: 60, Height: 20})
	if len(lines) != 20 || !strings.HasPrefix(lines[topHead], "endpoint 00") {
		t.Fatalf("the window shows\n%s", strings.Join(lines, "\n"))
	}
	if lines, _ = play(tea.KeyPressMsg{Code: tea.KeyDown}); !strings.HasPrefix(lines[topHead], "endpoint 01") {
		t.Errorf("after down the first is %q", lines[topHead])
	}
	if lines, _ = play(tea.KeyPressMsg{Code: tea.KeyEnd}); !strings.HasPrefix(lines[18], "endpoint 39") {
		t.Errorf("after end the last is %q", lines[18])
	}
	if lines, _ = play(looked{err: errors.New("no answer\x1b")}); lines[19] != `no answer\x1b` {
		t.Errorf("after a failed look the last line is %q", lines[19])
	}
	if lines, _ = play(looked{found: &overview{At: now.At, Endpoints: slices.Clone(now.Endpoints[:2])}}); !strings.HasPrefix(lines[topHead], "endpoint 00") || lines[19] != "q ends  p pauses  j k move" {
		t.Errorf("with two endpoints the window shows\n%s", strings.Join(lines, "\n"))
	}
	if lines, _ = play(tea.KeyPressMsg{Code: 'p', Text: "p"}); lines[19] != "paused: p goes on" {
		t.Errorf("after p the last line is %q", lines[19])
	}
	if _, next := play(tea.KeyPressMsg{Code: 'q', Text: "q"}); next == nil || next() != tea.Quit() {
		t.Error("q does not end it")
	}
}
