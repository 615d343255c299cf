package api

import (
	"context"
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/problem"
)

// Publisher stores what a tenant publishes; see ingest.Handler.Publish.
type Publisher interface {
	Publish(w http.ResponseWriter, r *http.Request, tenant kapsel.TenantID, read func(body []byte, reserve func(n int) error) ([]kapsel.Publication, error)) ([]kapsel.Published, error)
}

func (a *api) publishing() {
	op := huma.Operation{
		OperationID: "publish", Method: http.MethodPost, Path: "/v1/events", Tags: []string{"Events"}, DefaultStatus: http.StatusCreated,
		Summary: "Publish an event to the endpoints that subscribe to it, or a batch of events",
	}
	schema := func(t reflect.Type) *huma.Schema { return a.huma.OpenAPI().Components.Schemas.Schema(t, true, "") }
	media := func(s *huma.Schema) map[string]*huma.MediaType {
		return map[string]*huma.MediaType{jsonType: {Schema: s}}
	}
	either := func(one, batch reflect.Type) map[string]*huma.MediaType {
		return media(&huma.Schema{OneOf: []*huma.Schema{schema(one), schema(batch)}})
	}
	event := reflect.TypeFor[NewEvent]()
	op.Responses = map[string]*huma.Response{"201": {Description: "The event, which is stored", Content: media(schema(event))}}
	op = fails(op, failure{404, kapsel.NotFound}, failure{409, kapsel.Conflict}, failure{413, kapsel.PayloadTooLarge}, failure{422, kapsel.UnknownEventType}, failure{422, kapsel.SchemaMismatch}, failure{429, kapsel.QuotaExceeded},
		failure{503, kapsel.QueueFull}, failure{503, kapsel.ShuttingDown})
	add(a, access.Write, with(takes[PublishInput](op), "keyed", true), a.publish)
	doc := registered(a.huma.OpenAPI(), op.Method, op.Path)
	doc.RequestBody.Content = either(reflect.TypeFor[PublishInput](), reflect.TypeFor[PublishBatchInput]())
	doc.Responses["200"] = &huma.Response{
		Description: "The first event with this key, or what a dry run found; of a batch, what became of each event. Of a first event that retention has deleted only the id and the time are known",
		Content:     either(event, reflect.TypeFor[PublishedBatch]()),
	}
}

// PublishInput is an event to publish.
type PublishInput struct {
	Type        string    `json:"type" pattern:"^[A-Za-z0-9._-]{1,128}$" example:"invoice.paid" doc:"What subscriptions choose by"`
	Data        anyJSON   `json:"data,omitempty" doc:"The body of deliveries: any JSON, sent byte for byte as it is written here"`
	BodyBase64  string    `json:"body_base64,omitempty" example:"aGVsbG8=" doc:"In place of data: a body of any kind, in base64"`
	ContentType string    `json:"content_type,omitempty" maxLength:"255" example:"text/csv" doc:"Of body_base64"`
	ID          string    `json:"id,omitempty" minLength:"1" maxLength:"255" example:"invoice-1042-paid" doc:"The event's key: what is published again with it in 24 hours is a duplicate. Counts before an Idempotency-Key"`
	App         string    `json:"app,omitempty" minLength:"1" maxLength:"255" example:"acme" doc:"The app that it is published to, by id or uid: its endpoints get it, and no others; without it those that belong to no app"`
	Channels    []string  `json:"channels,omitempty" maxItems:"10" example:"[\"eu\"]" doc:"For subscriptions that name channels: they get it if it has one of theirs"`
	OrderingKey string    `json:"ordering_key,omitempty" minLength:"1" maxLength:"255" example:"customer-17" doc:"What the event is about; a key counts among the events of the same app with the same ordering key"`
	DeliverAt   timestamp `json:"deliver_at,omitempty" example:"2026-01-31T12:00:00Z" doc:"When its deliveries are due, at most 30 days ahead; in the past: at once"`
	DryRun      bool      `json:"dry_run,omitempty" doc:"Store nothing; say how many endpoints would get it"`
}

// PublishBatchInput are events to publish with one request.
type PublishBatchInput struct {
	Events []PublishInput `json:"events" minItems:"1" maxItems:"100" doc:"Each is stored or not by itself"`
}

// anyJSON is JSON of any kind. Nothing decodes it.
type anyJSON struct{}

// Schema says what the type is in the OpenAPI document.
func (anyJSON) Schema(huma.Registry) *huma.Schema { return &huma.Schema{AdditionalProperties: true} }

// NewEvent is an event in the answer to its publication. Its ID takes the place of Event's.
type NewEvent struct {
	ID *kapsel.EventID `json:"id" nullable:"true" doc:"null: a dry run, which stores nothing"`
	Event
	Deliveries int                 `json:"deliveries" doc:"To how many endpoints it goes"`
	Warnings   []kapsel.FieldError `json:"warnings,omitempty" doc:"What is wrong with it by its type's entry in the catalogue, whose validate is warn; or its type is deprecated"`
}

// PublishedBatch says what became of the events of a batch, in their order.
type PublishedBatch struct {
	Data []PublishedItem `json:"data" doc:"In the order of events"`
}

// PublishedItem has an event or an error.
type PublishedItem struct {
	Status int       `json:"status" doc:"As if the event had been published alone: 201 stored, 200 a duplicate or a dry run, or that of the error"`
	Event  *NewEvent `json:"event,omitempty" doc:"Where there is no error"`
	Error  *Problem  `json:"error,omitempty" doc:"Why it is not stored; after a 503 that is not known"`
}

// publication is the answer to a request to publish.
type publication struct {
	Status int
	Body   any
}

// publish stores the events of a request and answers with each one's outcome. It keeps no answer
// for repetitions, as other POSTs do: the events' own keys serve for that.
func (a *api) publish(ctx context.Context, in *TenantQuery) (*publication, error) {
	c := callOf(ctx)
	if err := checkJSONType(c); err != nil {
		return nil, err
	}
	batch := false
	results, err := a.Manage.Publish(ctx, c.caller, in.TenantID, func(tenant kapsel.TenantID) ([]kapsel.Published, error) {
		return a.Publisher.Publish(c.w, c.r, tenant, func(body []byte, reserve func(int) error) (list []kapsel.Publication, err error) {
			list, batch, err = readPublications(body, c.r.Header["Idempotency-Key"], a.Clock(), reserve)
			return list, err
		})
	})
	if err != nil {
		return nil, err
	}
	if !batch {
		p := &results[0]
		if p.Duplicate && p.Err == nil {
			c.w.Header().Set("Idempotent-Replayed", "true")
		}
		item := viewPublished(ctx, p)
		return &publication{item.Status, item.Event}, p.Err
	}
	items := make([]PublishedItem, len(results))
	unavailable := 0
	for i := range results {
		items[i] = viewPublished(ctx, &results[i])
		if items[i].Status == http.StatusServiceUnavailable {
			unavailable++
		}
		if err = results[i].Err; err != nil {
			a.log(c.r, items[i].Error.Document, err)
		}
	}
	if unavailable == len(items) { // the whole request is to come again
		return nil, err
	}
	return &publication{http.StatusOK, PublishedBatch{items}}, nil
}

// viewPublished returns the answer to one publication.
func viewPublished(ctx context.Context, p *manage.Published) PublishedItem {
	if p.Err != nil {
		d := problem.New(ctx, p.Err)
		return PublishedItem{Status: d.Status, Error: &Problem{d}}
	}
	status := http.StatusCreated
	if p.Duplicate || p.DryRun {
		status = http.StatusOK
	}
	return PublishedItem{Status: status, Event: &NewEvent{orNull(p.Event.ID), viewEvent(&p.EventRecord), p.Destinations, p.Warnings}}
}
