package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/client"
	"github.com/kapsel-hq/kapsel/internal/egress"
	"github.com/kapsel-hq/kapsel/internal/problem"
	"github.com/kapsel-hq/kapsel/internal/signature"
)

// triggerCmd sends a sample event of a provider, signed as the provider signs.
type triggerCmd struct {
	Provider   string `arg:"" optional:"" complete:"provider" help:"Whose event it is: stripe, github, …"`
	Event      string `arg:"" optional:"" complete:"sample" help:"Which event, as the provider calls it; the usual one without it."`
	Tenant     string `complete:"tenant" placeholder:"TENANT" help:"With the admin key: the tenant whose endpoint it is."`
	Endpoint   string `complete:"endpoint" placeholder:"ENDPOINT" help:"The endpoint to send it to; its id or name. Without it one is made, on a server that runs with --dev."`
	SecretFile string `placeholder:"FILE" help:"A file whose first line is the secret that the endpoint verifies with; - is standard input."`
	BodyFile   string `placeholder:"FILE" help:"A file with another body to sign and send; - is standard input."`
	waiting
}

// Help says what it does and has examples.
func (triggerCmd) Help() string {
	return `Sends a signed sample to an endpoint's ingest URL, as the provider would. The values in it are made
up. Without a provider it lists whose samples there are.

The endpoint verifies it, so the secret is needed: of an endpoint of yours in --secret-file. On a server
that runs with --dev an endpoint trigger-PROVIDER and a secret are made, and it goes to the inbox. An
endpoint that verifies nothing takes it as it is.

Examples:
  kapsel trigger
  kapsel trigger stripe
  kapsel trigger github pull_request --wait 10s
  kapsel trigger stripe invoice.paid --endpoint orders --secret-file stripe.secret`
}

// triggerTime is how long the request may take.
const triggerTime = 30 * time.Second

func (c triggerCmd) do(ctx context.Context, s *session) error {
	if c.Provider == "" {
		return c.list(s)
	}
	if c.Provider != signature.None && !slices.Contains(signature.Providers(), c.Provider) {
		return settingError("there is no provider %q; kapsel trigger lists those with samples", c.Provider)
	}
	sample, err := signature.FindSample(c.Provider, c.Event)
	if err != nil {
		return settingError("%v", err)
	}
	if c.SecretFile == "-" && c.BodyFile == "-" {
		return settingError("only one of the files can be standard input")
	}
	var secret []byte
	if c.SecretFile != "" {
		lines, err := readLines("--secret-file", c.SecretFile)
		if err != nil {
			return err
		}
		if len(lines) == 0 {
			return settingError("--secret-file: %s is empty", c.SecretFile)
		}
		secret = []byte(lines[0])
	}
	ep, sampler, err := c.endpoint(ctx, s, secret)
	if err != nil {
		return err
	}
	if ep.IngestURL == nil {
		return settingError("--endpoint: %s has no ingest URL; name an endpoint that has one", clean(ep.Name))
	}
	now := time.Now()
	r := sample.Request(*ep.IngestURL, now)
	if c.BodyFile != "" {
		if r.Body, err = readAll("--body-file", c.BodyFile); err != nil {
			return err
		}
	}
	if err := sampler.Sign(&r, now); err != nil {
		return err
	}
	return c.send(ctx, s, ep, sample.Event, r)
}

// list prints the providers and events that have samples.
func (c triggerCmd) list(s *session) error {
	type row struct{ provider, events string }
	var rows []found[row]
	for _, p := range signature.Describe() {
		if _, err := signature.NewSampler(signature.SampleSettings(p.Name), nil); err != nil {
			continue
		}
		var events []string
		for _, sample := range signature.Samples(p.Name) {
			events = append(events, sample.Event)
		}
		rows = append(rows, found[row]{object: row{p.Name, strings.Join(events, ", ")}})
	}
	if s.JSON {
		for _, r := range rows {
			if err := s.own(map[string]any{"provider": r.object.provider, "events": strings.Split(r.object.events, ", ")}); err != nil {
				return err
			}
		}
		return nil
	}
	return list(s, each(rows), listing{}, false, nil,
		column[row]{"PROVIDER", func(r row) string { return r.provider }},
		column[row]{"EVENTS", func(r row) string { return r.events }})
}

// endpoint returns the endpoint to send to, and a sampler that signs for it.
func (c triggerCmd) endpoint(ctx context.Context, s *session, secret []byte) (ep client.Endpoint, sampler *signature.Sampler, err error) {
	settings := signature.SampleSettings(c.Provider)
	if c.Endpoint == "" {
		if sampler, err = signature.NewSampler(settings, secret); err != nil {
			return ep, nil, settingError("%v", err)
		}
		verification := map[string]any{"provider": c.Provider, "secrets": []string{string(sampler.Secret)}}
		if settings.In != "" {
			verification["in"] = settings.In
		}
		if sampler.Secret == nil {
			verification = map[string]any{"provider": signature.None}
		}
		if ep, err = s.devEndpoint(ctx, c.Tenant, "trigger-"+c.Provider, map[string]any{"verification": verification}); err == nil {
			fmt.Fprintf(s.err, "sending to %s (%s), made on this development server with a secret for this request\n", clean(ep.Name), ep.ID)
		}
		return ep, sampler, err
	}
	id, err := s.endpointNamed(ctx, c.Endpoint, c.Tenant)
	if err != nil {
		return ep, nil, err
	}
	if ep, err = s.GetEndpoint(ctx, id); err != nil {
		return ep, nil, err
	}
	v := ep.Verification
	switch {
	case v.Provider == c.Provider && secret == nil:
		return ep, nil, settingError("--secret-file: is needed: %s verifies %s, and its secret cannot be read", clean(ep.Name), v.Provider)
	case v.Provider == c.Provider:
		settings = kapsel.Verification{
			Provider: v.Provider, Header: there(v.Header), Algorithm: there(v.Algorithm), Encoding: there(v.Encoding), Prefix: there(v.Prefix), Signed: there(v.Signed),
			Format: there(v.Format), TimeHeader: there(v.TimeHeader), TimeUnit: there(v.TimeUnit), KeyEncoding: there(v.KeyEncoding), In: there(v.In),
			Decompress: v.Decompress != nil && *v.Decompress,
		}
	case v.Provider != signature.None:
		return ep, nil, settingError("%s verifies %s, and refuses what %s signs: kapsel trigger %s, or name another endpoint", clean(ep.Name), v.Provider, c.Provider, v.Provider)
	}
	if sampler, err = signature.NewSampler(settings, secret); err != nil {
		err = settingError("--secret-file: %v", err)
	}
	return ep, sampler, err
}

// send posts the request to the server and prints the answer. It fails if the webhook was not accepted.
func (c triggerCmd) send(ctx context.Context, s *session, ep client.Endpoint, event string, r signature.Request) error {
	ctx, cancel := context.WithTimeout(ctx, triggerTime+c.Wait)
	defer cancel()
	// The signature is for the public URL, but the request goes to the server's API address.
	to, err := url.Parse(strings.TrimRight(s.Server, "/") + kapsel.IngestPath + ep.ID)
	if err != nil {
		return err
	}
	if _, query, ok := strings.Cut(r.URL, "?"); ok {
		to.RawQuery = query
	}
	start := time.Now()
	resp, err := egress.New(anywhere).RoundTrip(egress.NewRequest(ctx, to, r.Header, r.Body))
	if err != nil {
		return fmt.Errorf("no answer from %s: %w", to, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	took := time.Since(start)
	if err != nil {
		return fmt.Errorf("read the answer of %s: %w", to, err)
	}
	id := resp.Header.Get("X-Kapsel-Event-Id")
	if resp.StatusCode/100 != 2 || id == "" {
		said := strings.TrimSpace(string(answer))
		if resp.Header.Get("Content-Type") == problem.ContentType {
			said = detailOf(answer)
		}
		return fmt.Errorf("%s answered %d: %s", clean(ep.Name), resp.StatusCode, clean(shortened(said, 500)))
	}
	switch {
	case c.Wait > 0:
		detail, err := s.GetEvent(ctx, id)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(detail.Deliveries, func(d client.Delivery) bool { return d.EndpointID == ep.ID })
		if i < 0 {
			return fmt.Errorf("the event %s has no delivery to %s; kapsel events show says where it goes", id, clean(ep.Name))
		}
		return c.deliver(ctx, s, detail.Deliveries[i])
	case s.JSON:
		return s.answered(answer)
	case s.Quiet:
		return printed(fmt.Fprintln(s.out, id))
	}
	return printed(fmt.Fprintf(s.out, "%s  %s %s  %s  %d %s  %s\n", id, c.Provider, event, size(int64(len(r.Body))), resp.StatusCode, http.StatusText(resp.StatusCode), millis(took)))
}

// detailOf returns the code and the detail of a problem document.
func detailOf(document []byte) string {
	var d problem.Document
	if json.Unmarshal(document, &d) != nil {
		return string(document)
	}
	return strings.TrimSpace(string(d.Code) + " " + d.Detail)
}
