package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"time"

	"github.com/kapsel-hq/kapsel/client"
)

type attemptsCmd struct {
	List ask[attemptsList] `cmd:"" help:"List a delivery's attempts, oldest first."`
	Get  ask[attemptsGet]  `cmd:"" aliases:"show" help:"Show an attempt: what was sent and what was answered."`
}

type attemptsList struct {
	Delivery string `arg:"" name:"delivery" help:"A delivery's id, dlv_…"`
	listing
}

// Help has an example.
func (attemptsList) Help() string {
	return `Example:
  kapsel attempts list dlv_01m84z3e8wgaaxt5kys2q7z4mc`
}

func (c attemptsList) do(ctx context.Context, s *session) error {
	return list(s, raws(s, s.ListAttempts(ctx, c.Delivery)), c.listing, false, func(a client.Attempt) time.Time { return a.StartedAt },
		column[client.Attempt]{"ID", func(a client.Attempt) string { return a.ID }},
		column[client.Attempt]{"NUMBER", func(a client.Attempt) string { return fmt.Sprint(a.Number) }},
		column[client.Attempt]{"STARTED", func(a client.Attempt) string { return ago(a.StartedAt) }},
		column[client.Attempt]{"TOOK", func(a client.Attempt) string { return took(a).String() }},
		column[client.Attempt]{"STATUS", func(a client.Attempt) string { return or(a.StatusCode) }},
		column[client.Attempt]{"CODE", func(a client.Attempt) string { return or(a.ErrorCode) }},
		column[client.Attempt]{"ERROR", func(a client.Attempt) string { return or(a.Error) }})
}

// took returns how long an attempt took, rounded for people.
func took(a client.Attempt) time.Duration {
	return time.Duration(a.DurationMs * float64(time.Millisecond)).Round(100 * time.Microsecond)
}

// attemptText returns how an attempt ended, in a few words.
func attemptText(a client.Attempt) string {
	text := "no answer"
	if a.StatusCode != nil {
		text = fmt.Sprint(*a.StatusCode)
	}
	if a.ErrorCode != nil {
		text += " " + *a.ErrorCode
	}
	if a.Error != nil {
		text += " " + *a.Error
	}
	return text + " in " + took(a).String()
}

// answerBody returns the part of the destination's answer that was kept.
func answerBody(a client.Attempt) string {
	switch {
	case a.ResponseBody != nil:
		return *a.ResponseBody
	case a.ResponseBodyBase64 != nil:
		raw, err := base64.StdEncoding.DecodeString(*a.ResponseBodyBase64)
		if err == nil {
			return fmt.Sprintf("%s that are not text", size(int64(len(raw))))
		}
	}
	return ""
}

type attemptsGet struct {
	ID string `arg:"" name:"attempt" help:"An attempt's id, att_…"`
}

// Help has an example.
func (attemptsGet) Help() string {
	return `Example:
  kapsel attempts get att_01m84z4f9xhbbyv6mzt3r805nd`
}

func (c attemptsGet) do(ctx context.Context, s *session) error {
	a, err := s.GetAttempt(ctx, c.ID)
	if err != nil {
		return err
	}
	return s.show(a.ID, func(w io.Writer) {
		card(w, fact{"id", a.ID}, fact{"number", fmt.Sprint(a.Number)}, fact{"delivery", a.DeliveryID}, fact{"event", a.EventID},
			fact{"endpoint", a.EndpointID}, fact{"started", at(a.StartedAt)}, fact{"result", attemptText(a)})
		fmt.Fprintln(w, "\nSent")
		headers(w, a.RequestHeaders)
		if a.StatusCode == nil {
			return
		}
		fmt.Fprintln(w, "\nAnswered")
		headers(w, a.ResponseHeaders)
		excerpt(w, "\nBody", []byte(answerBody(a)))
	})
}
