package api

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/problem"
)

// This file holds the texts of the OpenAPI document that types and tags do not: what each operation does,
// what the fields that many objects share mean, examples, and how operations fail. A test fails for an
// operation or a field without a text.

// descriptions holds what each operation does, by its ID.
var descriptions = map[string]string{
	"create-tenant":       "A tenant owns endpoints, keys and all that is received, apart from every other. Without `plan` and `limits` it has no limits.",
	"list-tenants":        "All tenants that are not deleted, newest first.",
	"get-tenant":          "A tenant's own keys may read their tenant too; another one is not found.",
	"update-tenant":       "A merge patch. `\"limits\": null` returns to those of the plan; a single limit of null is none. Nodes obey within a second.",
	"delete-tenant":       "Its keys are revoked. While it has endpoints, sources or apps it is not deleted: delete these first.",
	"create-key":          "A key of scope `read` may do every GET of its tenant, payloads included; one of scope `write` everything else of its tenant too. Only a hash of the secret is kept.",
	"list-keys":           "Newest first, with when each was last used, to the minute.",
	"create-instance-key": "A key of scope `ledger` opens what `kapsel-ledger` needs (`/v1/ledger/entries`, `/acknowledgements` and `/reports`) and nothing else, so that the program need not have the admin key. Only a hash of the secret is kept; a repeated request with its `Idempotency-Key` does not show it again.",
	"list-instance-keys":  "Keys of no tenant, newest first, with when each was last used, to the minute.",
	"revoke-instance-key": "The key opens nothing any more, at once. It stays in the list.",
	"revoke-key":          "The key opens nothing any more, at once. It stays in the list.",
	"create-endpoint":     "Paste `ingest_url` where the webhooks come from; `url` is where they go to. All else has defaults. `uid` and `metadata` are your own; an endpoint's `uid` is unique in its app, or among endpoints without an app, and is not taken for its id. With the admin key `tenant_id` says whose it is.",
	"list-endpoints":      "All endpoints that are not deleted, newest first. With the admin key those of all tenants, or of `tenant_id`.",
	"get-endpoint":        "As it is in force, with its circuit and what waits for it. `backlog` is exact below 100; from there it is up to 15 seconds old and stops counting at 10,000.",
	"update-endpoint":     "A merge patch. Nodes obey within a second. `verification.secrets` are replaced as a whole, but `{\"id\":\"sec_…\"}` in the list keeps one that is there; `headers.set` and `metadata` change single names.",
	"delete-endpoint": "Senders get E1003 from now on, and no exchange starts later than a second after. Events stay readable until retention ends. " +
		"An endpoint to whose ingest others subscribe is E1010 without `keep_ingest`. With it `/v1/sources/src_…` of the same UUID goes on with the ingest: what is posted to either URL comes in there, events of before keep their keys, " +
		"and subscriptions to `ep_…` go on. While a node of an older release is alive it is E1010.",
	"pause-endpoint":    "Events are still accepted and wait; nothing is dropped. `/resume` goes on with them.",
	"resume-endpoint":   "Makes a paused or disabled endpoint active. One that the operator disabled is resumed with the admin key only.",
	"test-endpoint":     "The event goes the way of every other. Its type is `kapsel.test`.",
	"reset-circuit":     "Deliveries start at once instead of when the circuit would try next.",
	"rotate-secret":     "Until `overlap` ends deliveries carry the signatures of both secrets, so that the destination can change over.",
	"create-source":     "Paste `ingest_url` where the webhooks come from. Endpoints whose `subscriptions` name the source get its events; one that nobody wants is kept as `unmatched`. With the admin key `tenant_id` says whose it is. While a node of an older release is alive it is E1010.",
	"list-sources":      "All sources that are not deleted, newest first. With the admin key those of all tenants, or of `tenant_id`.",
	"get-source":        "As it is in force.",
	"update-source":     "A merge patch. Nodes obey within a second. `verification.secrets` are replaced as a whole, but `{\"id\":\"sec_…\"}` in the list keeps one that is there.",
	"delete-source":     "Senders get E1003 from now on. Events stay readable until retention ends.",
	"create-app":        "An app is a customer of yours. Endpoints that are made with it as `app` get what is published to it (`app` of `POST /v1/events`), and nothing else. `uid` is your own id of it, such as that of its row in your database; it stands wherever the app's id does. With the admin key `tenant_id` says whose it is. While a node of an older release is alive it is E1010.",
	"list-apps":         "All apps that are not deleted, newest first. With the admin key those of all tenants, or of `tenant_id`.",
	"get-app":           "By its id or its uid. A uid is of one tenant, which the admin key names with `tenant_id`.",
	"put-app":           "By a uid that no app has, it makes the app, and the answer is 201; else what was set on the app is replaced, and what the body leaves out has its default. The uid stays where the body has none.",
	"update-app":        "A merge patch. Nodes obey within a second. `metadata` changes single names.",
	"delete-app":        "Its uid is free again. Its events stay readable until retention ends. While it has endpoints it is not deleted: delete these first.",
	"create-event-type": "An entry of the tenant's catalogue, of at most 1,000: a type that it publishes, and what its events look like. Types that are not in the catalogue are published all the same, unless `limits.closed_catalogue` of the tenant closes it. With the admin key `tenant_id` says whose it is. While a node of an older release is alive it is E1010.",
	"list-event-types":  "All event types that are not deleted, newest first. With the admin key those of all tenants, or of `tenant_id`.",
	"get-event-type":    "By its name, which is one tenant's: the admin key names the tenant with `tenant_id`.",
	"put-event-type":    "By a name that no event type has, it makes the event type, and the answer is 201; else what was set on it is replaced, and what the body leaves out has its default.",
	"update-event-type": "A merge patch, but for `schemas`: each version that it names is replaced as a whole, and null takes one away. Nodes obey within a second.",
	"delete-event-type": "What is published is not checked against it any more. Subscriptions that name the type stay.",
	"list-events":       "Newest first, without headers and bodies. A page may miss events of the last 30 seconds, which a repeated read shows.",
	"publish": "An event of your own, for the endpoints whose `subscriptions` name `publish` and its type and channels. It is stored with its deliveries before the answer; without any it is `unmatched`, and kept all the same.\n\n" +
		"Published again with the same key (`id`, or the `Idempotency-Key` of a request with one event) within 24 hours it is answered 200 with the first event and `Idempotent-Replayed: true`, whatever its body; keys count within an `ordering_key`. " +
		"A batch is refused as a whole for what is wrong with the form of one event, and then each event is stored or not by itself, as its `status` says. " +
		"The whole request may have 4/3 of KAPSEL_MAX_BODY and 64 KiB. With the admin key `tenant_id` says whose event it is.",
	"get-event": "All but the body, which `/payload` gives. The values of headers that carry credentials are redacted.",
	"stream-events": "Server-sent events: each event, as the list shows it, once a stream, in the order in which events become visible; from now on, " +
		"or behind a position. Every message has the position behind it as its `id`, also those without data that say how far the stream is; " +
		"sent back as `Last-Event-ID` or `after` it resumes the stream, with nothing missing, on any node and after any restart. " +
		"`status` is the event's when it was read; the stream does not tell of its changes.\n\n" +
		"Something is sent every 15 seconds. A client that does not read for 10 seconds is dropped. The stream ends when the key is revoked or expires, " +
		"when the tenant is deleted and when the server stops; connect again. A tenant may have 100 streams open at a node (E1004).",
	"get-endpoint-stats": "By hour or day, with success rate and latency. Attempts count in the hour in which they ended. Those of test events, replays and lost nodes count, too. Counts are kept 90 days.",
	"get-refusals":       "What senders of webhooks were told, the last 50 of them, and how many there were since this node started: in memory, each node its own, for the 1,000 endpoints that refused last. No body and no header is kept. The counts of all nodes, by the hour, are `refused` of `/stats`.",
	"get-usage":          "Events, bytes, attempts and deliveries by day, beside the limits. Days and months are of UTC. Test events count, duplicates do not. Counts are kept 400 days. The admin key gets those of all tenants together, or of `tenant_id`.",
	"get-payload":        "As it was received. It comes as an attachment, whatever it is. Of an event that was erased it is gone (410).",
	"replay-event":       "Without `endpoint_id` the delivery is repeated that is the event's only one, or the only one that failed; otherwise 422. It must have ended, and not be replayed yet. The new one names it.",
	"cancel-event":       "Those that wait for their first or next attempt. One that is in flight or has ended stays as it is; without a pending one it is a conflict.",
	"erase-event": "For ever: its body, headers and query, what its attempts kept of requests and answers, and in the audit log its salt and the texts of its attempts' leaves. IDs, times, outcomes, the ordering key and the idempotency key stay, and the hashes of the leaves; " +
		"a leaf of type `erased` says that it was an erasure. While a delivery has not ended it is a conflict: cancel the event first. An event that was erased cannot be replayed; to erase it again does nothing.",
	"get-why":         "The endpoints that have a delivery of the event, and those that subscribe to where it came from and have none. It says what holds now; `settings_changed` tells where that may differ from when the event came in.",
	"list-deliveries": "A delivery is the obligation to bring one event to one endpoint. `waiting_for` says why one does not start.",
	"get-delivery":    "With its state, and when it is tried next.",
	"list-attempts":   "One for each try, in order. An attempt is at most one request on the wire.",
	"cancel-delivery": "Only one that is pending; one in flight or ended is a conflict.",
	"retry-delivery":  "It is due now instead of when its delay is over. Only one that is pending.",
	"get-proof": "All that is needed to verify, without asking anybody, that the attempt was recorded: `kapsel verify` takes it as it is. `Accept: text/plain` gets a C2SP tlog-proof. " +
		"E1010: the attempt is under no published head, which takes 10 seconds at most, or is older than the log.",
	"get-ledger":                 "With the ledger on (`KAPSEL_LEDGER`), the store counts each delivery that is made and each that ends, and `kapsel-ledger` books them by double entry. An account has both, as they were last compared. While nobody books, or for the first minutes, `books` is null.",
	"list-ledger-conflicts":      "Facts that the books do not take because they have another, as after the store was restored from a backup, and those that a comparison has named. They are kept.",
	"list-ledger-entries":        "For `kapsel-ledger`. An entry is what one transaction told; it comes again until it is acknowledged. One process books at a time: another's requests are a conflict until that one was silent for 30 seconds.",
	"acknowledge-ledger-entries": "For `kapsel-ledger`. Ids that were acknowledged before are passed over.",
	"list-books":                 "For `kapsel-ledger`: the accounts that `GET /v1/ledger` shows, of all tenants, which it compares with the books.",
	"report-books":               "For `kapsel-ledger`: what the accounts of some tenants and endpoints say, beside what they should.",
	"get-audit-log":              "Each tenant has a log of its attempts, in which nothing can be changed unseen. Its id opens the paths below `/attestation/` to anyone: they show heads and hashes, and nothing of a tenant. With the admin key `tenant_id` says whose log it is.",
	"get-head":                   "Needs no key. The same head as a signed note is at `/attestation/{log}/checkpoint`; all else is a view of it.",
	"get-inclusion-proof":        "Needs no key. The proof leads from the hash of a leaf to the root of the log's first `tree_size` leaves (RFC 6962). A size above that of the published head is refused.",
	"get-consistency-proof":      "Needs no key. The proof leads from the root of the log's first `from` leaves to that of its first `to` leaves (RFC 6962). A size above that of the published head is refused.",
	"list-log-keys":              "Needs no key. The keys that sign, or signed, the heads of the log; the current one is the last. Keep the one that you trust: a key that comes with what it verifies proves nothing.",
	"get-attempt":                "What was sent, what came back, or why nothing did.",
	"list-providers":             "Names for `verification.provider`, with what to paste where. No key is needed.",
	"list-signing-keys":          "Receivers verify the `v1a` signatures of deliveries with them. No key is needed: who knows the endpoint's id may know them.",
	"create-replay":              "Which deliveries are repeated is fixed now; one that is replayed in another way meanwhile is passed over. It survives restarts. `missing` is for an endpoint that was made, or subscribed, too late: its subscriptions as they are when each delivery is made say what it lacks, and an event that has a delivery to it gets no other. `statuses` of `pending` alone ends the wait for the next attempt, as after an outage of the destination; what is scheduled for later stays. With the admin key `tenant_id` says whose it is.",
	"list-replays":               "Newest first, with how far each is.",
	"get-replay":                 "How far it is, and how what it made has ended.",
	"pause-replay":               "`/resume` goes on where it was.",
	"resume-replay":              "It goes on where it was paused.",
	"create-portal-link":         "Lead the customer to `url`, alone or in a frame of one of `sites`. It opens once, and the visit lasts until `expires_at`. The link ends with the key that made it. With the admin key `tenant_id` says whose it is.",
	"list-portal-links":          "Newest first. A link is deleted once it has expired. With the admin key those of all tenants, or of `tenant_id`.",
	"get-portal-link":            "Whatever has become of it. Its `url` is in no answer but the first.",
	"revoke-portal-link":         "The link opens nothing any more, and the visit that it opened ends, at once.",
	"get-portal-logo":            "With its image. A tenant without one is E1009.",
	"put-portal-logo":            "It takes the place of the one before. Customers see it at the head of the portal's pages, which alone have it: its address is nobody else's.",
	"delete-portal-logo":         "The portal's pages begin without one again.",
	"list-changes":               "Newest first, kept a year: every change by the API, a command, the dashboard or the portal, written in the transaction of the change. A request that is refused, or changes nothing, leaves none; events that are received or published are no changes. With the admin key those of all tenants and of the instance, or of `tenant_id`. A page may miss changes of the last 30 seconds, which a repeated read shows.",
	"cancel-replay":              "What it has made already goes on and is counted.",
}

// word holds what a field means and an example of it.
type word struct {
	doc     string
	example any
}

const exampleID = "01jzsx7d5fexr8qjbdrn06a0q4"

// words holds the description and example of each field and parameter, keyed by "Schema.name",
// "path.parameter" or the name alone. Struct tags take precedence.
var words = map[string]word{
	"id":                        {"Its id", nil},
	"/v1/tenants.id":            {"The tenant's id", "ten_" + exampleID},
	"/v1/endpoints.id":          {"The endpoint's id", "ep_" + exampleID},
	"/v1/sources.id":            {"The source's id", "src_" + exampleID},
	"Source.id":                 {"Its id", "src_" + exampleID},
	"/v1/apps.id":               {"", "acme"},
	"App.id":                    {"Its id", "app_" + exampleID},
	"/v1/event-types.name":      {"", "invoice.paid"},
	"EventType.name":            {"The type", "invoice.paid"},
	"EventTypeInput.name":       {"The type", "invoice.paid"},
	"EventTypePut.name":         {"", "invoice.paid"},
	"group":                     {"", "invoices"},
	"schemas":                   {"", map[string]any{"1": map[string]any{"type": "object", "required": []string{"invoice"}}}},
	"validate":                  {"", "refuse"},
	"archived":                  {"", false},
	"deprecated":                {"", false},
	"closed_catalogue":          {"", false},
	"NewEvent.warnings":         {"", []map[string]any{{"field": "/data/amount", "detail": "got string, want number"}}},
	"app":                       {"The app that it belongs to; null: none", "app_" + exampleID},
	"app_id":                    {"", "app_" + exampleID},
	"uid":                       {"", "acme"},
	"metadata":                  {"", map[string]string{"plan": "gold"}},
	"Source.state":              {"disabled: the ingest URL answers as if it were not there", "active"},
	"Source.type":               {"", nil},
	"TypeRule.from":             {"", "header:X-Shopify-Topic"},
	"TypeRule.value":            {"", "invoice.paid"},
	"/v1/keys.id":               {"The key's id", "key_" + exampleID},
	"InstanceKey.id":            {"Its id", "key_" + exampleID},
	"NewInstanceKey.id":         {"Its id", "key_" + exampleID},
	"/v1/events.id":             {"The event's id", "evt_" + exampleID},
	"/v1/events.type":           {"", "invoice.paid"},
	"/v1/deliveries.id":         {"The delivery's id", "dlv_" + exampleID},
	"/v1/attempts.id":           {"The attempt's id", "att_" + exampleID},
	"/v1/replays.id":            {"The replay's id", "rpl_" + exampleID},
	"/v1/portal-links.id":       {"The link's id", "plk_" + exampleID},
	"PortalLink.id":             {"Its id", "plk_" + exampleID},
	"PortalLink.mode":           {"read: see; manage: also add, change and test endpoints, and send again", "manage"},
	"NewPortalLink.id":          {"Its id", "plk_" + exampleID},
	"NewPortalLink.mode":        {"read: see; manage: also add, change and test endpoints, and send again", "manage"},
	"sites":                     {"", []string{"https://app.example"}},
	"used_at":                   {"", "2026-03-01T12:00:05.000Z"},
	"Attempt.id":                {"Its id", "att_" + exampleID},
	"Delivery.id":               {"Its id", "dlv_" + exampleID},
	"Endpoint.id":               {"Its id", "ep_" + exampleID},
	"NewEndpoint.id":            {"Its id", "ep_" + exampleID},
	"Event.id":                  {"Its id", "evt_" + exampleID},
	"NewEvent.id":               {"", "evt_" + exampleID},
	"Reason.status":             {"", "pending"},
	"settings_changed":          {"", false},
	"reason":                    {"", "the endpoint is paused; /resume makes it active"},
	"NewEvent.deliveries":       {"", 3},
	"NewEvent.type":             {"", "invoice.paid"},
	"NewEvent.status":           {"Of its newest delivery; received: none was tried yet", "received"},
	"PublishInput.data":         {"", map[string]any{"invoice": 1042}},
	"PublishInput.dry_run":      {"", false},
	"PublishedItem.status":      {"", 201},
	"EventDetail.id":            {"Its id", "evt_" + exampleID},
	"Key.id":                    {"Its id", "key_" + exampleID},
	"NewKey.id":                 {"Its id", "key_" + exampleID},
	"Replay.id":                 {"Its id", "rpl_" + exampleID},
	"Secret.id":                 {"Its id; what it is is not shown", "sec_" + exampleID},
	"SigningKey.id":             {"Its id", "sec_" + exampleID},
	"Tenant.id":                 {"Its id", "ten_" + exampleID},
	"tenant_id":                 {"The tenant that it belongs to", "ten_" + exampleID},
	"endpoint_id":               {"The endpoint that it belongs to", "ep_" + exampleID},
	"source_id":                 {"The source that it came in at", "src_" + exampleID},
	"Event.type":                {"", "invoice.paid"},
	"EventDetail.type":          {"", "invoice.paid"},
	"event_types":               {"", []string{"invoice.paid", "order.*"}},
	"channels":                  {"", []string{"project_1"}},
	"ordering_key":              {"", "customer-17"},
	"deliver_at":                {"", exampleTime},
	"expanding":                 {"", false},
	"event_id":                  {"The event that it belongs to", "evt_" + exampleID},
	"delivery_id":               {"The delivery that it belongs to", "dlv_" + exampleID},
	"key_id":                    {"The key's id", "key_" + exampleID},
	"Verdict.key_id":            {"", "sec_" + exampleID},
	"replay_of":                 {"", "dlv_" + exampleID},
	"replayed_as":               {"", "dlv_" + exampleID},
	"name":                      {"What people call it", "orders"},
	"title":                     {"", "Stripe"},
	"description":               {"For people", "Orders of the web shop"},
	"data":                      {"The objects of this page", nil},
	"next_cursor":               {"", "AZe_1sVvdLmj0Ck…"},
	"cursor":                    {"", "AZe_1sVvdLmj0Ck"},
	"limit":                     {"", 50},
	"status":                    {"Only those of this status", "dead_letter"},
	"state":                     {"", "active"},
	"created_at":                {"When it was made", exampleTime},
	"updated_at":                {"When it was last changed", exampleTime},
	"finished_at":               {"When it ended; null: not yet", exampleTime},
	"received_at":               {"When the request came in", exampleTime},
	"delivered_at":              {"", exampleTime},
	"erased_at":                 {"", exampleTime},
	"started_at":                {"When it began", exampleTime},
	"expires_at":                {"When it stops being valid; null: never", "2027-01-31T12:00:00.000Z"},
	"last_used_at":              {"", exampleTime},
	"revoked_at":                {"When it was revoked; null: it was not", exampleTime},
	"changed_at":                {"", exampleTime},
	"retry_at":                  {"", exampleTime},
	"oldest_waiting_at":         {"", exampleTime},
	"throttled_until":           {"", exampleTime},
	"next_attempt_at":           {"", exampleTime},
	"since":                     {"Events received at this time or later", exampleTime},
	"until":                     {"Events received before this time; null: no end", "2026-02-01T00:00:00.000Z"},
	"detail":                    {"What happened and what to do", "the endpoint is disabled; /resume makes it active"},
	"scope":                     {"What it may do: read, or read and write", "write"},
	"prefix":                    {"", "kap_6Jmr"},
	"Verification.prefix":       {"For hmac: what stands before the signature", "sha256="},
	"secret":                    {"", "kap_…"},
	"Provider.secret":           {"", "the endpoint's signing secret, whsec_…"},
	"url":                       {"Where the webhooks go", "https://shop.example/webhooks"},
	"ingest_url":                {"", "https://hooks.example/ingest/ep_" + exampleID},
	"verification":              {"How what comes in is checked; unverified without it", nil},
	"idempotency":               {"How duplicates are told", nil},
	"retry":                     {"When a delivery is tried again", nil},
	"retry_on":                  {"Statuses that are retried beside 408, 425, 429 and 5xx", []int{409}},
	"timeout":                   {"", "30s"},
	"rate_limit":                {"How fast exchanges start; null: no limit", nil},
	"concurrency":               {"How many exchanges run at once, all nodes together", 100},
	"circuit":                   {"When deliveries stop for a while, because the destination fails", nil},
	"headers":                   {"What deliveries carry beside, or instead of, what came in", nil},
	"signing":                   {"How deliveries are signed", nil},
	"signing_secret":            {"", "whsec_…"},
	"provider":                  {"Who signs; /v1/providers lists them", "github"},
	"secrets":                   {"All that are valid now", nil},
	"tolerance":                 {"", "5m"},
	"VerificationInput.secrets": {"", []string{"the secret that the provider shows"}},
	"header":                    {"For hmac: the header that carries the signature", "X-Webhook-Signature"},
	"Idempotency.header":        {"", "X-Order-Id"},
	"challenge":                 {"What a sender asks before the first event, and how it is answered; null: nothing, or the provider's own", nil},
	"Challenge.from":            {"", "query:challenge"},
	"Challenge.to":              {"", "body"},
	"probe":                     {"Whether GET and HEAD are answered 200, with nothing", false},
	"response":                  {"What accepted webhooks are answered; null: what the provider wants, or the event's id", nil},
	"Response.status":           {"Of the answer", 200},
	"Response.content_type":     {"Of the answer", "text/plain"},
	"Response.body":             {"", "ok"},
	"expect_every":              {"", "24h"},
	"forward_query":             {"Whether the query that a webhook came with is sent along", false},
	"awaiting_handshake":        {"", true},
	"handshake_secret":          {"", "secret_…"},
	"topic_arns":                {"", []string{"arn:aws:sns:eu-west-1:123456789012:orders"}},
	"audience":                  {"", "https://hooks.example/ingest/ep_" + exampleID},
	"email":                     {"", "push@project.iam.gserviceaccount.com"},
	"verify_token":              {"", "a text of your choice"},
	"signed":                    {"", "{time}.{body}"},
	"format":                    {"", "pairs"},
	"time_header":               {"", "X-Webhook-Timestamp"},
	"time_unit":                 {"", "seconds"},
	"key_encoding":              {"", "text"},
	"decompress":                {"", false},
	"in":                        {"", "header:X-Webhook-Token"},
	"algorithm":                 {"For hmac", "sha256"},
	"encoding":                  {"For hmac", "hex"},
	"strategy":                  {"", nil},
	"Idempotency.strategy":      {"What an event's key is taken from", "header"},
	"Retry.strategy":            {"How the delay grows", "exponential"},
	"path":                      {"", "$.data.id"},
	"window":                    {"", "24h"},
	"max_attempts":              {"How many attempts before it is a dead letter", 20},
	"base":                      {"", "1s"},
	"max":                       {"", "4h"},
	"schedule":                  {"", []string{"10s", "1m", "1h"}},
	"per_second":                {"Exchanges a second", 50.5},
	"burst":                     {"How many may start at once after a pause", 100},
	"failures":                  {"", 5},
	"ratio":                     {"", 0.8},
	"Circuit.enabled":           {"", true},
	"CircuitPolicy.enabled":     {"", true},
	"CircuitPolicy.window":      {"", 20},
	"Circuit.window":            {"", 20},
	"minimum":                   {"", 10},
	"open_for":                  {"", "30s"},
	"successes":                 {"", 3},
	"Circuit.state":             {"open: nothing is sent; half_open: a few probes are; closed: all is well, or the circuit is not enabled", "closed"},
	"set":                       {"Headers that deliveries carry, in place of those that came in; the values do not read back", nil},
	"drop":                      {"Headers that deliveries do not carry", []string{"X-Internal"}},
	"keep":                      {"Headers that deliveries carry although they are left out otherwise", []string{"Authorization"}},
	"enabled":                   {"Whether deliveries are signed", true},
	"v1a":                       {"Whether they carry an Ed25519 signature too", false},
	"overlap":                   {"", "24h"},
	"disabled_reason":           {"", "gone"},
	"backlog":                   {"", 0},
	"warnings":                  {"What its owner should know of it", []string{"unverified: anyone who knows the URL can post events"}},
	"Endpoint.state":            {"paused by a person; disabled after a 410, or by the operator", "active"},
	"NewEndpoint.state":         {"paused by a person; disabled after a 410, or by the operator", "active"},
	"Event.status":              {"Of its newest delivery; received: none was tried yet", "delivered"},
	"EventDetail.status":        {"Of its newest delivery; received: none was tried yet", "delivered"},
	"EventDetail.headers":       {"", [][]string{{"Content-Type", "application/json"}}},
	"content_type":              {"As the sender said it", "application/json"},
	"size":                      {"", 1024},
	"idempotency_key":           {"By which a duplicate is told; null: none", "order-1001"},
	"signature":                 {"What the check of its signature found", nil},
	"query":                     {"", "source=shop"},
	"deliveries":                {"", nil},
	"scheme":                    {"", "github"},
	"SigningKey.scheme":         {"", "v1a"},
	"valid":                     {"Whether the signature is right", true},
	"skew":                      {"", "1.2s"},
	"Delivery.status":           {"Where it is: pending, delivering, or how it ended", "delivered"},
	"attempts":                  {"", 1},
	"waiting_for":               {"", "circuit"},
	"last_status_code":          {"What the last attempt was answered; null: nothing", 200},
	"last_error_code":           {"Why the last attempt failed; null: it did not", "E2004"},
	"number":                    {"", 1},
	"duration_ms":               {"How long it took, in milliseconds", 20.5},
	"status_code":               {"", 503},
	"error_code":                {"", "E2004"},
	"error":                     {"", "the destination answered 503"},
	"request_headers":           {"", [][]string{{"Content-Type", "application/json"}}},
	"response_headers":          {"As they came, [[\"Name\",\"value\"],…]; those that carry credentials are redacted", [][]string{{"Content-Type", "text/plain"}}},
	"response_body":             {"", "try again"},
	"response_body_base64":      {"", "/w=="},
	"accepted":                  {"", 400},
	"LedgerTotals.replayed":     {"", 2},
	"ReportedTotals.replayed":   {"", 2},
	"made":                      {"", 402},
	"in_flight":                 {"", 10},
	"complete":                  {"", true},
	"reported_at":               {"", exampleTime},
	"found_at":                  {"", exampleTime},
	"answer":                    {"", "exists_with_different_credit_account_id"},
	"LedgerConflict.at":         {"", "2026-01-31T12:00:00.000000Z"},
	"LedgerFact.at":             {"", "2026-01-31T12:00:00.000000Z"},
	"FoundConflict.at":          {"", "2026-01-31T12:00:00.000000Z"},
	"LedgerConflict.kind":       {"", "delivered"},
	"LedgerFact.kind":           {"", "delivered"},
	"FoundConflict.kind":        {"", "delivered"},
	"LedgerEntry.id":            {"", "ent_" + exampleID},
	"ids":                       {"", []string{"ent_" + exampleID}},
	"booker":                    {"", "booker-7f3a"},
	"wait":                      {"", 20},
	"Ledger.error_code":         {"", "E3002"},
	"LedgerAccount.error_code":  {"", "E3002"},
	"leaf_index":                {"The leaf's index in the log, from 0", 1001},
	"AuditLog.log":              {"", exampleLog},
	"log":                       {"", exampleLog},
	"AuditLog.origin":           {"", "kapsel/" + exampleLog},
	"AuditLog.lag":              {"", "1.5s"},
	"AuditLog.fault":            {"", "the log is behind what was published"},
	"AuditLog.head":             {"", nil},
	"tree_size":                 {"The size of the log, in leaves", 2000},
	"root_hash":                 {"", exampleHash},
	"leaf_hash":                 {"", exampleHash},
	"proof_hashes":              {"", []string{exampleHash}},
	"timestamp":                 {"", exampleTime},
	"checkpoint":                {"", "kapsel/" + exampleLog + "\n2000\n" + exampleHash + "\n\n— kapsel/" + exampleLog + " …\n"},
	"witnessed":                 {"", false},
	"Audit.public":              {"", true},
	"Audit.witnesses":           {"", 2},
	"AuditLog.witnesses_wanted": {"", 2},
	"WitnessState.key":          {"", "witness.example/w1+dcedd86b+BO1JKMYo0cLG6ukDOJBZlWEllWc6XGP50Hhd+SIzjzj4"},
	"WitnessState.size":         {"", 2000},
	"WitnessState.signed_at":    {"", "2026-03-01T12:00:00.000Z"},
	"WitnessState.error":        {"", "it does not answer"},
	"AuditLog.public":           {"", true},
	"LogCheck.at":               {"", "2026-03-01T12:00:00.000Z"},
	"LogCheck.finding":          {"", "log 000102030405060708090a0b0c0d0e0f, leaf 3: the text was changed: it does not have the leaf's hash"},
	"SignedTreeHead.public_key": {"", exampleHash},
	"SignedTreeHead.key_id":     {"", "0e0c1564"},
	"LogKey.public_key":         {"", exampleHash},
	"LogKey.key_id":             {"", "0e0c1564"},
	"vkey":                      {"", "kapsel/" + exampleLog + "+0e0c1564+…"},
	"valid_from":                {"", exampleTime},
	"/v1/changes.kind":          {"", "endpoint"},
	"/v1/changes.key_id":        {"", "key_" + exampleID},
	"Change.id":                 {"Its id", "chg_" + exampleID},
	"Change.kind":               {"", "endpoint"},
	"Change.at":                 {"", exampleTime},
	"verb":                      {"", "update"},
	"object_id":                 {"", "ep_" + exampleID},
	"by":                        {"Who made it", nil},
	"before":                    {"", map[string]any{"timeout": "30s"}},
	"Change.after":              {"", map[string]any{"timeout": "1m"}},
	"ChangedBy.kind":            {"", "key"},
	"ChangedBy.subject":         {"", "auth0|5f7c8ec7c33c6c004bbafe82"},
	"session_id":                {"", "ses_0a1b2c3d"},
	"client":                    {"", "192.0.2.7"},
	"valid_until":               {"", exampleTime},
	"index":                     {"The leaf's index, from 0", 1001},
	"from":                      {"", 1000},
	"to":                        {"", 2000},
	"leaf":                      {"", `{"v":1,"type":"attempt",…}`},
	"opening":                   {"", nil},
	"salt":                      {"", "…"},
	"inclusion_proof":           {"", nil},
	"plan":                      {"Where its limits come from that are not its own", "unlimited"},
	"limits":                    {"What it may use", nil},
	"ingest_per_second":         {"Events accepted a second; null: no limit", 100},
	"ingest_burst":              {"Events accepted at once after a pause; null: no limit", 200},
	"endpoints":                 {"How many it may have; null: no limit", 50},
	"events_per_month":          {"Events accepted in a calendar month; null: no limit", 1_000_000},
	"retention":                 {"", "2160h"},
	"statuses":                  {"How the deliveries to repeat have ended", []string{"dead_letter", "failed"}},
	"rate":                      {"", 50},
	"dry_run":                   {"", true},
	"missing":                   {"", false},
	"ReplayPreview.missing":     {"", nil},
	"replayed":                  {"", false},
	"keep_ingest":               {"", true},
	"total":                     {"", 1000},
	"created":                   {"", 400},
	"delivered":                 {"", 390},
	"failed":                    {"", 2},
	"Replay.status":             {"", "running"},
	"count":                     {"", 1000},
	"sample":                    {"", nil},
	"public_key":                {"", "whpk_…"},
	"paste":                     {"", "Developers → Webhooks → Add endpoint"},
	"find":                      {"", "on the endpoint's page, Reveal"},
	"Provider.name":             {"What verification.provider takes", "stripe"},
	"Provider.headers":          {"", []string{"Stripe-Signature"}},
	"handshake":                 {"", false},
	"delivery_id_headers":       {"", []string{"X-GitHub-Delivery"}},
	"Idempotency-Key":           {"", "7c0e9d5e-create-orders"},

	"after":                    {"", "evt_" + exampleID + ".42"},
	"Last-Event-ID":            {"", "evt_" + exampleID + ".42"},
	"Provider.retries":         {"", "5, 30, 90 min"},
	"Provider.resigned":        {"", "yes"},
	"Provider.answer":          {"", "200"},
	"Provider.sources":         {"", []string{"docs.stripe.com/webhooks"}},
	"Provider.note":            {"", "the signature covers the raw body"},
	"delivery_id_path":         {"", "$.id"},
	"EndpointStats.interval":   {"How long an interval is", "hour"},
	"EndpointStats.total":      {"All intervals together", nil},
	"EndpointStats.since":      {"", exampleTime},
	"EndpointStats.until":      {"", "2026-02-01T12:00:00.000Z"},
	"Refusals.since":           {"", exampleTime},
	"Refusals.total":           {"", 12},
	"Refusals.counts":          {"", map[string]int64{"E1001": 12}},
	"Refusal.time":             {"When it was refused", exampleTime},
	"Refusal.status":           {"The answer's status", 401},
	"Refusal.code":             {"", "E1001"},
	"Refusal.detail":           {"", "no signature of the request was made with a secret of this endpoint over what arrived"},
	"start":                    {"When it begins", exampleTime},
	"AttemptCounts.total":      {"All of them", 1204},
	"Stats.attempts":           {"Tries, by how they ended", nil},
	"StatsInterval.attempts":   {"Tries, by how they ended", nil},
	"Stats.deliveries":         {"Deliveries that ended, by how", nil},
	"StatsInterval.deliveries": {"Deliveries that ended, by how", nil},
	"latency":                  {"How long the destination took", nil},
	"DeliveryCounts.delivered": {"Answered 2xx", 1198},
	"DeliveryCounts.failed":    {"Refused by the destination", 0},
	"dead_letter":              {"Attempts used up", 1},
	"canceled":                 {"By a person, or their endpoint is gone", 0},
	"UsageReport.total":        {"All days together", nil},
	"UsageReport.tenant_id":    {"", "ten_" + exampleID},
	"UsageReport.since":        {"", "2026-01-01T00:00:00.000Z"},
	"UsageReport.until":        {"", "2026-02-01T00:00:00.000Z"},
	"day":                      {"Its date, in UTC", "2026-01-31"},
	"Usage.attempts":           {"Tries to deliver", 1204},
	"UsageDay.attempts":        {"Tries to deliver", 1204},
	"used":                     {"Of it, so far", 1200},
	"remaining":                {"What is left of it; null: no limit", 98800},
	"resets_at":                {"", "2026-02-01T00:00:00.000Z"},
	"p95_ms":                   {"As p50_ms, of 95 in 100", 210},
	"p99_ms":                   {"As p50_ms, of 99 in 100", 480},

	"Problem.type":       {"urn:kapsel:error: and the code, for ever; about:blank for a bug of ours", "urn:kapsel:error:E1010"},
	"Problem.title":      {"The code's name", "Conflict"},
	"Problem.status":     {"The answer's status", 409},
	"Problem.code":       {"Which error it is; what programs decide by", "E1010"},
	"Problem.request_id": {"By which the log is searched", "req_" + exampleID},
	"Problem.errors":     {"With E1006: every field that is wrong", nil},
	"FieldError.field":   {"Its path, such as retry.base or headers.set.X-Token", "retry.base"},
	"FieldError.detail":  {"What is wrong with it", "must be 100ms to 1h"},
}

const (
	exampleLog  = "000102030405060708090a0b0c0d0e0f"
	exampleHash = "sFodV/vSp5O8n9a8QpW6PRY97tfOSW5bsc2Xl/EQi08="
)

const exampleTime = "2026-01-31T12:00:00.000Z"

// wordOf returns the word of a name within a schema or a path; without one, that of the name alone.
func wordOf(name string, within ...string) (w word) {
	general := words[name]
	for _, in := range within {
		if own, ok := words[in+"."+name]; ok {
			if own.doc == "" {
				own.doc = general.doc
			}
			return own
		}
	}
	return general
}

// explain adds the words to a document wherever types and tags have no text.
func explain(doc *huma.OpenAPI) {
	for schema, s := range doc.Components.Schemas.Map() {
		base := strings.TrimSuffix(strings.TrimSuffix(schema, "Input"), "Patch")
		for name, p := range s.Properties {
			w := wordOf(name, schema, base)
			if w.doc != "" && (p.Description == "" || p.Description == anyDuration) {
				p.Description = w.doc
			}
			switch {
			case len(p.Examples) > 0 && p.Examples[0] != anyDurationExample: // its own tag
			case len(p.Enum) > 0 && !slices.Contains(p.Enum, w.example):
				p.Examples = p.Enum[:1]
			case w.example != nil && p.Ref == "" && p.OneOf == nil:
				p.Examples = []any{w.example}
			}
		}
	}
	for path, item := range doc.Paths {
		resource := strings.Join(strings.Split(path, "/")[:3], "/")
		for _, op := range []*huma.Operation{item.Get, item.Post, item.Patch, item.Put, item.Delete} {
			if op == nil {
				continue
			}
			op.Description = descriptions[op.OperationID]
			for _, p := range op.Parameters {
				w := wordOf(p.Name, resource)
				if p.Description == "" {
					p.Description = w.doc
				}
				if len(p.Schema.Enum) > 0 && !slices.Contains(p.Schema.Enum, w.example) {
					w.example = p.Schema.Enum[0]
				}
				p.Example = w.example
			}
		}
	}
}

// anyDuration and anyDurationExample are the description and example of a duration whose field has none.
const (
	anyDuration        = "A Go duration"
	anyDurationExample = "30s"
)

// meanings holds what the code of a caller's error means in the document, by status.
var meanings = map[int]map[kapsel.Code]string{
	400: {kapsel.InvalidRequest: "the request cannot be read: its syntax, an unknown or repeated field or parameter, a value of the wrong type, a cursor of another list"},
	401: {kapsel.Unauthorized: "the key is missing, wrong, revoked or expired"},
	403: {kapsel.Forbidden: "the key may not do that", kapsel.QuotaExceeded: "the tenant has all that its limits allow"},
	404: {kapsel.NotFound: "it does not exist, or is another tenant's"},
	408: {kapsel.InvalidRequest: "the body did not come in time"},
	409: {kapsel.Conflict: "it is in no state for that, or others change it at the same time", kapsel.DuplicateEvent: "the `Idempotency-Key` was used for another request"},
	413: {kapsel.PayloadTooLarge: "the body is longer than 64 KiB, or than what may be published at once"},
	415: {kapsel.InvalidRequest: "the body is not `application/json`"},
	422: {kapsel.InvalidRequest: "a value is refused; `errors` names each", kapsel.DestinationBlocked: "deliveries may not go to that address", kapsel.UnknownEventType: "the tenant's catalogue is closed and does not have the type", kapsel.SchemaMismatch: "the body does not fit the schema of its type; `errors` names each fault by its JSON pointer"},
	429: {kapsel.RateLimited: "too many requests; `Retry-After` says when to go on", kapsel.QuotaExceeded: "the tenant has used up its `events_per_month`"},
	500: {"": "a bug of ours, with no code; the log has the request id"},
	503: {
		kapsel.DatabaseUnavailable: "the store does not answer; nothing is known to be changed, and the same request may be sent again",
		kapsel.QueueFull:           "too many requests or bytes wait at the moment; send it again",
		kapsel.ShuttingDown:        "the process is stopping; send it again",
	},
}

// failure is a status and a code with which an operation can fail.
type failure struct {
	status int
	code   kapsel.Code
}

// failuresOf returns how an operation can fail, including what it was given by fails.
func failuresOf(op *huma.Operation, who access.Right, body bool) []failure {
	own, _ := op.Metadata["fails"].([]failure)
	all := append([]failure{{400, kapsel.InvalidRequest}, {500, ""}, {503, kapsel.DatabaseUnavailable}}, own...)
	if who != access.Anyone {
		all = append(all, failure{401, kapsel.Unauthorized}, failure{403, kapsel.Forbidden}, failure{429, kapsel.RateLimited})
	}
	if strings.Contains(op.Path, "{") {
		all = append(all, failure{404, kapsel.NotFound})
	}
	if body {
		all = append(all, failure{408, kapsel.InvalidRequest}, failure{413, kapsel.PayloadTooLarge}, failure{415, kapsel.InvalidRequest}, failure{422, kapsel.InvalidRequest})
	}
	if op.Method == http.MethodPost && !ownKeys(op) {
		all = append(all, failure{409, kapsel.Conflict}, failure{409, kapsel.DuplicateEvent})
	}
	if slices.ContainsFunc(op.Parameters, func(p *huma.Param) bool { return p.Name == "tenant_id" }) {
		all = append(all, failure{422, kapsel.InvalidRequest})
	}
	return all
}

// fails returns the operation with more ways to fail than failuresOf finds by itself.
func fails(op huma.Operation, all ...failure) huma.Operation {
	return with(op, "fails", all)
}

// documentFailures replaces huma's one answer for all failures by one for each status.
func documentFailures(doc *huma.Operation, all []failure) {
	content := doc.Responses["default"].Content
	delete(doc.Responses, "default")
	byStatus := map[int][]kapsel.Code{}
	for _, f := range all {
		if !slices.Contains(byStatus[f.status], f.code) {
			byStatus[f.status] = append(byStatus[f.status], f.code)
		}
	}
	for status, codes := range byStatus {
		slices.Sort(codes)
		var says []string
		for _, code := range codes {
			says = append(says, strings.TrimSpace(fmt.Sprintf("%s %s", code, meanings[status][code])))
		}
		var err error = &kapsel.Error{Code: codes[0], Status: status, Detail: meanings[status][codes[0]]}
		if codes[0] == "" {
			err = errPanic
		}
		example := problem.New(context.Background(), err)
		example.RequestID = "req_" + exampleID
		r := &huma.Response{Description: strings.Join(says, "; "), Content: map[string]*huma.MediaType{}}
		for kind, media := range content {
			r.Content[kind] = &huma.MediaType{Schema: media.Schema, Example: example}
		}
		header := func(name, doc, example string) {
			r.Headers = map[string]*huma.Param{name: {Description: doc, Schema: &huma.Schema{Type: huma.TypeString}, Example: example}}
		}
		switch status {
		case http.StatusUnauthorized:
			header("WWW-Authenticate", "How to send a key", "Bearer")
		case http.StatusTooManyRequests, http.StatusServiceUnavailable:
			header("Retry-After", "How many seconds to wait", "1")
		}
		r.Extensions = map[string]any{"x-codes": codes}
		doc.Responses[strconv.Itoa(status)] = r
	}
}
