package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel/client"
)

type replaysCmd struct {
	List   ask[replaysList]   `cmd:"" help:"List replays, newest first."`
	Get    ask[replaysGet]    `cmd:"" help:"Show a replay."`
	Create ask[replaysCreate] `cmd:"" help:"Deliver again what failed or was given up, or deliver what is missing or waits, many events at once."`
	Pause  ask[replaysPause]  `cmd:"" help:"Make no more deliveries for now."`
	Resume ask[replaysResume] `cmd:"" help:"Go on with a paused replay."`
	Cancel ask[replaysCancel] `cmd:"" help:"Make no more deliveries; those made go on."`
}

// replayID is the argument of commands that are about one replay.
type replayID struct {
	ID string `arg:"" name:"replay" help:"A replay's id, rpl_…"`
}

type replaysList struct {
	ofTenant
	Status []string `enum:"running,paused,canceled,done" placeholder:"STATUS" help:"Only those with any of these statuses: running, paused, canceled, done."`
	listing
}

// Help has an example.
func (replaysList) Help() string {
	return `Examples:
  kapsel replays list
  kapsel replays list --status running,paused --since 7d`
}

func (c replaysList) do(ctx context.Context, s *session) error {
	tenant, err := s.tenantNamed(ctx, c.Tenant)
	if err != nil {
		return err
	}
	all := raws(s, s.ListReplays(ctx, client.ListReplaysFilter{TenantID: tenant}))
	if c.Status != nil {
		all = only(all, func(r client.Replay) bool { return slices.Contains(c.Status, r.Status) })
	}
	return list(s, all, c.listing, true, func(r client.Replay) time.Time { return r.CreatedAt },
		column[client.Replay]{"ID", func(r client.Replay) string { return r.ID }},
		column[client.Replay]{"STATUS", func(r client.Replay) string { return r.Status }},
		column[client.Replay]{"CREATED", func(r client.Replay) string { return fmt.Sprintf("%d/%d", r.Created, r.Total) }},
		column[client.Replay]{"DELIVERED", func(r client.Replay) string { return fmt.Sprint(r.Delivered) }},
		column[client.Replay]{"FAILED", func(r client.Replay) string { return fmt.Sprint(r.Failed) }},
		column[client.Replay]{"SINCE", func(r client.Replay) string { return ago(r.Since) }},
		column[client.Replay]{"MADE", func(r client.Replay) string { return ago(r.CreatedAt) }},
		column[client.Replay]{"ENDPOINT", func(r client.Replay) string { return or(r.EndpointID) }})
}

type replaysGet struct{ replayID }

// Help has an example.
func (replaysGet) Help() string {
	return `Example:
  kapsel replays get rpl_01m84z3e8wgaaxt5kys2q7z4mc`
}

func (c replaysGet) do(ctx context.Context, s *session) error {
	return s.showReplay(s.GetReplay(ctx, c.ID))
}

// showReplay prints the replay that a call answered, or returns the call's error.
func (s *session) showReplay(r client.Replay, err error) error {
	if err != nil {
		return err
	}
	return s.show(r.ID, func(w io.Writer) {
		card(w, fact{"id", r.ID}, fact{"status", r.Status}, fact{"endpoint", there(r.EndpointID)}, fact{"statuses", setOf(r)},
			fact{"since", at(r.Since)}, fact{"until", atOr(r.Until)}, fact{"rate", fmt.Sprintf("%d/s", r.Rate)},
			fact{"created", fmt.Sprintf("%d of %d", r.Created, r.Total)}, fact{"delivered", fmt.Sprint(r.Delivered)}, fact{"failed", fmt.Sprint(r.Failed)},
			fact{"made", at(r.CreatedAt)}, fact{"finished", atOr(r.FinishedAt)})
	})
}

// setOf describes the deliveries that a replay repeats.
func setOf(r client.Replay) string {
	if r.Missing {
		return "missing"
	}
	return strings.Join(r.Statuses, ", ")
}

type replaysCreate struct {
	Tenant   string   `complete:"tenant" placeholder:"TENANT" help:"With the admin key, where there are several: the tenant's id or name."`
	Endpoint string   `complete:"endpoint" placeholder:"ENDPOINT" help:"Only deliveries to this endpoint; its id or name."`
	Since    moment   `required:"" placeholder:"TIME" help:"Of events received from this time or date on, or how long ago, such as 1h or 30d."`
	Until    moment   `placeholder:"TIME" help:"Of events received before this time."`
	Status   []string `complete:"delivered,failed,dead_letter,canceled,pending" placeholder:"STATUS" xor:"set" help:"How they have ended: delivered, failed, dead_letter, canceled (default dead_letter,failed). pending, alone: what waits for its next attempt is due now."`
	Missing  bool     `xor:"set" help:"What an endpoint subscribes to and never got, because it was made or subscribed too late."`
	Rate     *int64   `placeholder:"N" help:"Deliveries a second at most (default 50)."`
	DryRun   bool     `help:"Only say how many there are."`
	Detach   bool     `help:"Do not watch the replay, which goes on by itself. So it is with --json and --quiet."`
}

// Help has examples.
func (replaysCreate) Help() string {
	return `The replay goes on when this command is interrupted. Watched, it exits with 1 unless all is delivered.

Examples:
  kapsel replays create --since 1h --dry-run
  kapsel replays create --since 1h
  kapsel replays create --since 24h --endpoint orders --status dead_letter --rate 200
  kapsel replays create --since 7d --endpoint warehouse --missing
  kapsel replays create --since 24h --endpoint orders --status pending`
}

func (c replaysCreate) do(ctx context.Context, s *session) error {
	body := client.ReplayInput{Since: c.Since.Time}
	tenant, err := s.newOwner(ctx, c.Tenant)
	if err != nil {
		return err
	}
	if c.Endpoint != "" {
		endpoint, err := s.endpointNamed(ctx, c.Endpoint, tenant)
		if err != nil {
			return err
		}
		body.EndpointID = client.Some(endpoint)
	}
	if !c.Until.IsZero() {
		body.Until = client.Some(c.Until.Time)
	}
	if c.Status != nil {
		body.Statuses = client.Some(c.Status)
	}
	if c.Missing {
		body.Missing = new(true)
	}
	if c.Rate != nil {
		body.Rate = client.Some(*c.Rate)
	}
	if c.DryRun {
		found, err := s.PreviewReplay(ctx, tenant, body)
		return s.showPreview(c.Missing, found, err)
	}
	r, err := s.CreateReplay(ctx, tenant, body)
	if err != nil {
		return err
	}
	if c.Detach || s.JSON || s.Quiet {
		return s.showReplay(r, nil)
	}
	return s.watchReplay(ctx, r)
}

// showPreview prints the result of a dry run.
func (s *session) showPreview(missing bool, found client.ReplayPreview, err error) error {
	switch {
	case err != nil:
		return err
	case s.JSON:
		return s.answered(s.raw)
	case s.Quiet:
		return printed(fmt.Fprintln(s.out, found.Count))
	}
	noun, what := "deliveries", "replayed"
	if found.Count == 1 {
		noun = "delivery"
	}
	if missing {
		what = "made"
	}
	text := fmt.Sprintf("%d %s would be %s\n", found.Count, noun, what)
	for _, d := range found.Sample {
		text += fmt.Sprintf("  %s  %s\n", d.ID, clean(deliveryText(d)))
	}
	for _, d := range found.Missing {
		text += fmt.Sprintf("  of %s to %s\n", d.EventID, d.EndpointID)
	}
	if more := found.Count - int64(len(found.Sample)+len(found.Missing)); more > 0 {
		text += fmt.Sprintf("  and %d more\n", more)
	}
	return printed(io.WriteString(s.out, text))
}

// watchReplay shows a replay's progress until it has ended or is paused, and then the replay.
func (s *session) watchReplay(ctx context.Context, r client.Replay) error {
	draw := isTerminal(s.err)
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for r.Status == "running" {
		if draw {
			fmt.Fprintf(s.err, "\r%s", progressOf(r))
		}
		select {
		case <-ctx.Done():
			if draw {
				fmt.Fprintln(s.err)
			}
			fmt.Fprintf(s.err, "the replay goes on; kapsel replays get %s shows it, kapsel replays cancel %s ends it\n", r.ID, r.ID)
			return ctx.Err()
		case <-tick.C:
		}
		var err error
		if r, err = s.GetReplay(ctx, r.ID); err != nil {
			return err
		}
	}
	if draw {
		fmt.Fprintf(s.err, "\r%s\n", progressOf(r))
	}
	if err := s.showReplay(r, nil); err != nil {
		return err
	}
	switch {
	case r.Status != "done":
		return fmt.Errorf("the replay is %s", r.Status)
	case r.Failed > 0:
		return fmt.Errorf("%d of %d were not delivered; kapsel deliveries list --replayed false --status dead_letter (or failed) has them", r.Failed, r.Created)
	}
	return nil
}

// hastens reports whether a replay makes waiting deliveries due, instead of making new deliveries.
func hastens(r client.Replay) bool { return slices.Equal(r.Statuses, []string{"pending"}) }

// progressOf returns a bar and the counts of a replay's deliveries that have ended.
func progressOf(r client.Replay) string {
	const width = 30
	filled := width
	done := r.Delivered + r.Failed
	if hastens(r) {
		done = r.Created
	}
	if r.Total > 0 {
		filled = int(min(width, width*done/r.Total))
	}
	bar := strings.Repeat("#", filled) + strings.Repeat("-", width-filled)
	if hastens(r) {
		return fmt.Sprintf("[%s] %d of %d due now ", bar, r.Created, r.Total)
	}
	return fmt.Sprintf("[%s] %d of %d sent again, %d delivered, %d failed ", bar, r.Created, r.Total, r.Delivered, r.Failed)
}

// isTerminal reports whether w is a terminal: a character device other than the null device.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}

type replaysPause struct{ replayID }

// Help has an example.
func (replaysPause) Help() string {
	return `What was sent again already goes on.

Example:
  kapsel replays pause rpl_01m84z3e8wgaaxt5kys2q7z4mc`
}

func (c replaysPause) do(ctx context.Context, s *session) error {
	return s.showReplay(s.PauseReplay(ctx, c.ID))
}

type replaysResume struct{ replayID }

// Help has an example.
func (replaysResume) Help() string {
	return `Example:
  kapsel replays resume rpl_01m84z3e8wgaaxt5kys2q7z4mc`
}

func (c replaysResume) do(ctx context.Context, s *session) error {
	return s.showReplay(s.ResumeReplay(ctx, c.ID))
}

type replaysCancel struct{ replayID }

// Help has an example.
func (replaysCancel) Help() string {
	return `What was sent again already goes on; kapsel deliveries cancel ends single ones.

Example:
  kapsel replays cancel rpl_01m84z3e8wgaaxt5kys2q7z4mc`
}

func (c replaysCancel) do(ctx context.Context, s *session) error {
	return s.showReplay(s.CancelReplay(ctx, c.ID))
}
