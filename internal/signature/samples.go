package signature

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// Sample is a short event of a provider with made-up values. In the body and the headers {{id}} is
// replaced by a new ID, {{number}} by one in digits, {{time}}, {{unix}} and {{millis}} by the time
// of sending, and {{secret}}, as a whole string, by the secret.
type Sample struct {
	Event       string // the provider's name for the event
	ContentType string // "": JSON
	Header      map[string]string
	Body        string
}

// placeSecret is the placeholder for the secret in a body.
const placeSecret = "{{secret}}"

// Samples returns the samples of a provider, the most usual one first. For a provider without its
// own it returns one generic event.
func Samples(provider string) []Sample {
	if own := samples[provider]; own != nil {
		return own
	}
	body := map[string]any{"type": "sample", "created_at": "{{time}}", "data": map[string]any{"message": "a sample that kapsel trigger has made"}}
	if p := presets[provider]; p != nil && p.deliveryIn.text != "" {
		names := strings.Split(strings.TrimPrefix(p.deliveryIn.text, "$."), ".")
		at := body
		for _, name := range names[:len(names)-1] {
			inner, ok := at[name].(map[string]any)
			if !ok {
				inner = map[string]any{}
				at[name] = inner
			}
			at = inner
		}
		at[names[len(names)-1]] = "{{id}}"
	}
	text, err := json.Marshal(body)
	if err != nil {
		panic(err) // maps of strings always encode
	}
	return []Sample{{Event: "sample", Body: string(text)}}
}

// FindSample returns the sample of an event; "" is the most usual one. The error names the events
// that exist.
func FindSample(provider, event string) (Sample, error) {
	all := Samples(provider)
	var names []string
	for _, s := range all {
		if event == "" || s.Event == event {
			return s, nil
		}
		names = append(names, s.Event)
	}
	return Sample{}, fmt.Errorf("there is no sample of %s %s; there are %s", provider, event, strings.Join(names, ", "))
}

// Request returns the sample as a request to a URL, sent at now and not yet signed.
func (s Sample) Request(url string, now time.Time) Request {
	var id [8]byte
	rand.Read(id[:])
	fill := strings.NewReplacer("{{id}}", hex.EncodeToString(id[:]), "{{number}}", strconv.FormatUint(1e9+binary.BigEndian.Uint64(id[:])%9e9, 10),
		"{{time}}", now.UTC().Format("2006-01-02T15:04:05.000Z"),
		"{{unix}}", seconds.format(now), "{{millis}}", millis.format(now))
	r := Request{Method: http.MethodPost, URL: url, Header: http.Header{"User-Agent": {"kapsel-trigger"}}, Body: []byte(fill.Replace(s.Body))}
	r.Header.Set("Content-Type", "application/json")
	if s.ContentType != "" {
		r.Header.Set("Content-Type", s.ContentType)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Header)) {
		r.Header.Set(name, fill.Replace(s.Header[name]))
	}
	return r
}

// SampleSettings returns the settings of an endpoint that verifies samples of a provider,
// including those that have no default.
func SampleSettings(provider string) kapsel.Verification {
	v := kapsel.Verification{Provider: provider}
	if provider == "token" {
		v.In = "header:X-Token"
	}
	return v
}

const form = "application/x-www-form-urlencoded"

// named returns samples of a provider that names the event in a header.
func named(header string, bodies ...[2]string) (all []Sample) {
	for _, b := range bodies {
		all = append(all, Sample{Event: b[0], Header: map[string]string{header: b[0]}, Body: b[1]})
	}
	return all
}

// samples holds the events of providers whose events have a shape worth trying. The bodies are our
// own: the members that receivers look at first, according to the providers' references.
var samples = map[string][]Sample{
	"stripe": {
		{Event: "payment_intent.succeeded", Body: `{"id":"evt_{{id}}","object":"event","api_version":"2026-01-28","created":{{unix}},"type":"payment_intent.succeeded","livemode":false,"data":{"object":{"id":"pi_{{id}}","object":"payment_intent","amount":1999,"currency":"eur","status":"succeeded"}}}`},
		{Event: "checkout.session.completed", Body: `{"id":"evt_{{id}}","object":"event","created":{{unix}},"type":"checkout.session.completed","livemode":false,"data":{"object":{"id":"cs_test_{{id}}","object":"checkout.session","amount_total":1999,"currency":"eur","payment_status":"paid","status":"complete"}}}`},
		{Event: "invoice.paid", Body: `{"id":"evt_{{id}}","object":"event","created":{{unix}},"type":"invoice.paid","livemode":false,"data":{"object":{"id":"in_{{id}}","object":"invoice","amount_paid":1999,"currency":"eur","status":"paid"}}}`},
		{Event: "customer.subscription.deleted", Body: `{"id":"evt_{{id}}","object":"event","created":{{unix}},"type":"customer.subscription.deleted","livemode":false,"data":{"object":{"id":"sub_{{id}}","object":"subscription","status":"canceled"}}}`},
	},
	"github": named("X-GitHub-Event",
		[2]string{"push", `{"ref":"refs/heads/main","before":"0000000000000000000000000000000000000000","after":"{{id}}","repository":{"id":1,"full_name":"acme/shop"},"pusher":{"name":"sam"},"commits":[{"id":"{{id}}","message":"A sample","timestamp":"{{time}}"}]}`},
		[2]string{"ping", `{"zen":"Keep it logically awesome.","hook_id":1,"hook":{"type":"Repository","id":1,"events":["push"]},"repository":{"id":1,"full_name":"acme/shop"}}`},
		[2]string{"pull_request", `{"action":"opened","number":7,"pull_request":{"id":7,"title":"A sample","state":"open","created_at":"{{time}}"},"repository":{"id":1,"full_name":"acme/shop"},"sender":{"login":"sam"}}`},
		[2]string{"issues", `{"action":"opened","issue":{"number":8,"title":"A sample","state":"open"},"repository":{"id":1,"full_name":"acme/shop"},"sender":{"login":"sam"}}`}),
	"gitea": named("X-Gitea-Event",
		[2]string{"push", `{"ref":"refs/heads/main","before":"0000000000000000000000000000000000000000","after":"{{id}}","commits":[{"id":"{{id}}","message":"A sample"}],"repository":{"id":1,"full_name":"acme/shop"}}`}),
	"gitlab": named("X-Gitlab-Event",
		[2]string{"Push Hook", `{"object_kind":"push","ref":"refs/heads/main","checkout_sha":"{{id}}","user_name":"Sam","project":{"id":1,"path_with_namespace":"acme/shop"},"commits":[{"id":"{{id}}","message":"A sample"}],"total_commits_count":1}`},
		[2]string{"Merge Request Hook", `{"object_kind":"merge_request","user":{"name":"Sam"},"project":{"id":1},"object_attributes":{"iid":7,"title":"A sample","state":"opened","action":"open"}}`}),
	"bitbucket": named("X-Event-Key",
		[2]string{"repo:push", `{"actor":{"display_name":"Sam"},"repository":{"full_name":"acme/shop"},"push":{"changes":[{"new":{"type":"branch","name":"main","target":{"hash":"{{id}}"}}}]}}`}),
	"shopify": named("X-Shopify-Topic",
		[2]string{"orders/create", `{"id":820982911946154508,"name":"#1001","created_at":"{{time}}","currency":"EUR","total_price":"19.99","financial_status":"paid","line_items":[{"id":1,"title":"A sample","quantity":1,"price":"19.99"}]}`},
		[2]string{"products/update", `{"id":788032119674292922,"title":"A sample","updated_at":"{{time}}","status":"active"}`},
		[2]string{"app/uninstalled", `{"id":548380009,"name":"Acme","domain":"acme.example"}`}),
	"slack": {
		{Event: "app_mention", Body: `{"token":"sample","team_id":"T061EG9R6","api_app_id":"A0MDYCDME","type":"event_callback","event_id":"Ev{{id}}","event_time":{{unix}},"event":{"type":"app_mention","user":"U061F7AUR","text":"<@U0LAN0Z89> hello","ts":"{{unix}}.000200","channel":"C0LAN2Q65"}}`},
		{Event: "message", Body: `{"token":"sample","team_id":"T061EG9R6","type":"event_callback","event_id":"Ev{{id}}","event_time":{{unix}},"event":{"type":"message","user":"U061F7AUR","text":"hello","ts":"{{unix}}.000200","channel":"C0LAN2Q65"}}`},
		{Event: "slash_command", ContentType: form, Body: `command=%2Fsample&text=hello&user_id=U061F7AUR&channel_id=C0LAN2Q65&team_id=T061EG9R6&trigger_id={{id}}`},
	},
	"twilio": {
		{Event: "sms", ContentType: form, Body: `MessageSid=SM{{id}}&AccountSid=AC00000000000000000000000000000000&From=%2B15005550006&To=%2B15005550001&Body=hello&NumMedia=0`},
		{Event: "call", ContentType: form, Body: `CallSid=CA{{id}}&AccountSid=AC00000000000000000000000000000000&From=%2B15005550006&To=%2B15005550001&CallStatus=ringing&Direction=inbound`},
	},
	"sendgrid": {
		{Event: "delivered", Body: `[{"email":"sam@example.com","timestamp":{{unix}},"event":"delivered","sg_event_id":"{{id}}","sg_message_id":"{{id}}.0","response":"250 OK"}]`},
		{Event: "bounce", Body: `[{"email":"sam@example.com","timestamp":{{unix}},"event":"bounce","sg_event_id":"{{id}}","reason":"550 no such user","status":"5.1.1"}]`},
	},
	"square": {
		{Event: "payment.updated", Body: `{"merchant_id":"6SSW7HV8K2ST5","type":"payment.updated","event_id":"{{id}}","created_at":"{{time}}","data":{"type":"payment","id":"{{id}}","object":{"payment":{"id":"{{id}}","status":"COMPLETED","amount_money":{"amount":1999,"currency":"EUR"}}}}}`},
	},
	"paypal": {
		{Event: "PAYMENT.CAPTURE.COMPLETED", Body: `{"id":"WH-{{id}}","event_version":"1.0","create_time":"{{time}}","resource_type":"capture","event_type":"PAYMENT.CAPTURE.COMPLETED","summary":"Payment completed for EUR 19.99","resource":{"id":"{{id}}","status":"COMPLETED","amount":{"currency_code":"EUR","value":"19.99"}}}`},
	},
	"paddle": {
		{Event: "transaction.completed", Body: `{"event_id":"evt_{{id}}","event_type":"transaction.completed","occurred_at":"{{time}}","notification_id":"ntf_{{id}}","data":{"id":"txn_{{id}}","status":"completed","currency_code":"EUR","details":{"totals":{"grand_total":"1999"}}}}`},
		{Event: "subscription.created", Body: `{"event_id":"evt_{{id}}","event_type":"subscription.created","occurred_at":"{{time}}","data":{"id":"sub_{{id}}","status":"active"}}`},
	},
	"linear": {
		{Event: "Issue", Header: map[string]string{"Linear-Event": "Issue"}, Body: `{"action":"create","type":"Issue","createdAt":"{{time}}","webhookTimestamp":{{millis}},"webhookId":"{{id}}","data":{"id":"{{id}}","identifier":"SHOP-7","title":"A sample"}}`},
	},
	"zoom": {
		{Event: "meeting.started", Body: `{"event":"meeting.started","event_ts":{{millis}},"payload":{"account_id":"sample","object":{"id":"1234567890","uuid":"{{id}}","topic":"A sample","start_time":"{{time}}"}}}`},
	},
	"discord": {
		{Event: "APPLICATION_AUTHORIZED", Body: `{"version":1,"application_id":"1234560123453231555","type":1,"event":{"type":"APPLICATION_AUTHORIZED","timestamp":"{{time}}","data":{"integration_type":1,"scopes":["applications.commands"],"user":{"id":"111178765189277770","username":"sam"}}}}`},
	},
	"hubspot": {
		{Event: "contact.creation", Body: `[{"objectId":1246965,"eventId":{{number}},"subscriptionId":25,"portalId":33,"appId":1160452,"occurredAt":{{millis}},"subscriptionType":"contact.creation","attemptNumber":0}]`},
	},
	"intercom": {
		{Event: "conversation.user.created", Body: `{"type":"notification_event","app_id":"sample","id":"notif_{{id}}","topic":"conversation.user.created","created_at":{{unix}},"data":{"type":"notification_event_data","item":{"type":"conversation","id":"{{id}}"}}}`},
	},
	"mailgun": {
		{Event: "delivered", Body: `{"event-data":{"id":"{{id}}","timestamp":{{unix}},"event":"delivered","recipient":"sam@example.com","delivery-status":{"code":250,"message":"OK"}}}`},
		{Event: "failed", Body: `{"event-data":{"id":"{{id}}","timestamp":{{unix}},"event":"failed","severity":"permanent","recipient":"sam@example.com","delivery-status":{"code":550}}}`},
	},
	"adyen": {
		{Event: "AUTHORISATION", Body: `{"live":"false","data":{"pspReference":"{{id}}","merchantAccountCode":"Acme","merchantReference":"order-1","amount":{"currency":"EUR","value":1999},"eventCode":"AUTHORISATION","success":"true"},"createdAt":"{{time}}"}`},
	},
	"xero": {
		{Event: "invoice.create", Body: `{"events":[{"resourceId":"{{id}}","eventDateUtc":"{{time}}","eventType":"CREATE","eventCategory":"INVOICE","tenantType":"ORGANISATION"}],"firstEventSequence":1,"lastEventSequence":1,"entropy":"{{id}}"}`},
	},
	"meta": {
		{Event: "whatsapp.messages", Body: `{"object":"whatsapp_business_account","entry":[{"id":"102290129340398","changes":[{"field":"messages","value":{"messaging_product":"whatsapp","messages":[{"from":"16505551234","id":"wamid.{{id}}","timestamp":"{{unix}}","type":"text","text":{"body":"hello"}}]}}]}]}`},
		{Event: "page.feed", Body: `{"object":"page","entry":[{"id":"1","time":{{unix}},"changes":[{"field":"feed","value":{"item":"status","verb":"add","message":"hello"}}]}]}`},
	},
	"x": {
		{Event: "tweet_create_events", Body: `{"for_user_id":"2244994945","tweet_create_events":[{"id_str":"{{unix}}","text":"hello","timestamp_ms":"{{millis}}"}]}`},
	},
	"okta": {
		{Event: "user.lifecycle.create", Body: `{"eventType":"com.okta.event_hook","eventTypeVersion":"1.0","eventId":"{{id}}","eventTime":"{{time}}","data":{"events":[{"eventType":"user.lifecycle.create","displayMessage":"Create okta user","target":[{"type":"User","alternateId":"sam@example.com"}]}]}}`},
	},
	"zendesk": {
		{Event: "ticket.created", Body: `{"type":"zen:event-type:ticket.created","id":"{{id}}","time":"{{time}}","subject":"zen:ticket:7","detail":{"id":"7","subject":"A sample","status":"NEW"},"event":{}}`},
	},
	"pagerduty": {
		{Event: "incident.triggered", Body: `{"event":{"id":"{{id}}","event_type":"incident.triggered","resource_type":"incident","occurred_at":"{{time}}","data":{"id":"{{id}}","type":"incident","title":"A sample","status":"triggered","urgency":"high"}}}`},
	},
	"calendly": {
		{Event: "invitee.created", Body: `{"event":"invitee.created","created_at":"{{time}}","payload":{"uri":"https://api.calendly.com/invitees/{{id}}","name":"Sam","email":"sam@example.com","status":"active"}}`},
	},
	"workos": {
		{Event: "dsync.user.created", Body: `{"id":"wh_{{id}}","event":"dsync.user.created","created_at":"{{time}}","data":{"id":"directory_user_{{id}}","first_name":"Sam","state":"active"}}`},
	},
	"atlassian": {
		{Event: "jira:issue_created", Body: `{"timestamp":{{millis}},"webhookEvent":"jira:issue_created","issue":{"id":"7","key":"SHOP-7","fields":{"summary":"A sample"}}}`},
	},
	"trello": {
		{Event: "updateCard", Body: `{"action":{"id":"{{id}}","type":"updateCard","date":"{{time}}","data":{"card":{"id":"{{id}}","name":"A sample"}}},"model":{"id":"{{id}}","name":"Board"}}`},
	},
	"box": {
		{Event: "FILE.UPLOADED", Body: `{"type":"webhook_event","id":"{{id}}","created_at":"{{time}}","trigger":"FILE.UPLOADED","webhook":{"id":"53","type":"webhook"},"source":{"id":"73","type":"file","name":"sample.txt"}}`},
	},
	"woocommerce": named("X-WC-Webhook-Topic",
		[2]string{"order.created", `{"id":727,"number":"727","status":"processing","currency":"EUR","total":"19.99","date_created_gmt":"{{time}}"}`}),
	"mailchimp": {
		{Event: "send", ContentType: form, Body: `mandrill_events=%5B%7B%22event%22%3A%22send%22%2C%22_id%22%3A%22{{id}}%22%2C%22ts%22%3A{{unix}}%2C%22msg%22%3A%7B%22email%22%3A%22sam%40example.com%22%7D%7D%5D`},
	},
	"telegram": {
		{Event: "message", Body: `{"update_id":{{number}},"message":{"message_id":7,"date":{{unix}},"chat":{"id":1,"type":"private","first_name":"Sam"},"from":{"id":1,"is_bot":false,"first_name":"Sam"},"text":"hello"}}`},
	},
	"typeform": {
		{Event: "form_response", Body: `{"event_id":"{{id}}","event_type":"form_response","form_response":{"form_id":"sample","token":"{{id}}","submitted_at":"{{time}}","answers":[{"type":"text","text":"hello","field":{"id":"1","type":"short_text"}}]}}`},
	},
	"vercel": {
		{Event: "deployment.succeeded", Body: `{"id":"{{id}}","type":"deployment.succeeded","createdAt":{{millis}},"payload":{"deployment":{"id":"dpl_{{id}}","name":"shop","url":"shop.example"},"target":"production"}}`},
	},
	"sentry": named("Sentry-Hook-Resource",
		[2]string{"issue", `{"action":"created","installation":{"uuid":"{{id}}"},"data":{"issue":{"id":"7","title":"A sample","status":"unresolved"}},"actor":{"type":"application","id":"sentry","name":"Sentry"}}`}),
	"lemonsqueezy": named("X-Event-Name",
		[2]string{"order_created", `{"meta":{"event_name":"order_created","test_mode":true},"data":{"type":"orders","id":"1","attributes":{"total":1999,"currency":"EUR","status":"paid","created_at":"{{time}}"}}}`}),
	"razorpay": {
		{Event: "payment.captured", Body: `{"entity":"event","account_id":"acc_sample","event":"payment.captured","contains":["payment"],"payload":{"payment":{"entity":{"id":"pay_{{id}}","amount":199900,"currency":"INR","status":"captured"}}},"created_at":{{unix}}}`},
	},
	"docusign": {
		{Event: "envelope-completed", Body: `{"event":"envelope-completed","apiVersion":"v2.1","generatedDateTime":"{{time}}","data":{"accountId":"{{id}}","envelopeId":"{{id}}","envelopeSummary":{"status":"completed"}}}`},
	},
	"alchemy": {
		{Event: "ADDRESS_ACTIVITY", Body: `{"webhookId":"wh_sample","id":"whevt_{{id}}","createdAt":"{{time}}","type":"ADDRESS_ACTIVITY","event":{"network":"ETH_SEPOLIA","activity":[{"category":"token","value":1,"asset":"USDC"}]}}`},
	},
	"microsoft-teams": {
		{Event: "message", Body: `{"type":"message","id":"{{unix}}","timestamp":"{{time}}","from":{"id":"sample","name":"Sam"},"channelId":"msteams","text":"<at>kapsel</at> hello"}`},
	},
	"microsoft-graph": {
		{Event: "created", Body: `{"value":[{"subscriptionId":"{{id}}","changeType":"created","clientState":"{{secret}}","resource":"me/messages/7","resourceData":{"id":"7"}}]}`},
	},
	"cloudevents": {
		{Event: "com.example.order.created", ContentType: "application/cloudevents+json", Body: `{"specversion":"1.0","type":"com.example.order.created","source":"/shop","id":"{{id}}","time":"{{time}}","datacontenttype":"application/json","data":{"order":1}}`},
	},
	"azure-event-grid": {
		{Event: "Microsoft.Storage.BlobCreated", Body: `[{"id":"{{id}}","topic":"/subscriptions/sample","subject":"/blobServices/default/containers/a/blobs/b","eventType":"Microsoft.Storage.BlobCreated","eventTime":"{{time}}","dataVersion":"1","data":{"api":"PutBlob","contentLength":3}}]`},
	},
	"websub": {
		{Event: "update", ContentType: "application/atom+xml", Body: `<feed xmlns="http://www.w3.org/2005/Atom"><id>sample</id><title>A sample</title><updated>{{time}}</updated><entry><id>{{id}}</id><title>hello</title></entry></feed>`},
	},
	"twitch": {
		{Event: "stream.online", Header: map[string]string{"Twitch-Eventsub-Message-Type": "notification", "Twitch-Eventsub-Subscription-Type": "stream.online"},
			Body: `{"subscription":{"id":"{{id}}","type":"stream.online","version":"1","status":"enabled"},"event":{"id":"{{id}}","broadcaster_user_login":"sam","type":"live","started_at":"{{time}}"}}`},
	},
	"openai": {
		{Event: "response.completed", Body: `{"object":"event","id":"evt_{{id}}","type":"response.completed","created_at":{{unix}},"data":{"id":"resp_{{id}}"}}`},
	},
	"clerk": {
		{Event: "user.created", Body: `{"object":"event","type":"user.created","timestamp":{{millis}},"data":{"id":"user_{{id}}","first_name":"Sam","email_addresses":[{"email_address":"sam@example.com"}]}}`},
	},
	"resend": {
		{Event: "email.delivered", Body: `{"type":"email.delivered","created_at":"{{time}}","data":{"email_id":"{{id}}","to":["sam@example.com"],"subject":"A sample"}}`},
	},
	"postmark": {
		{Event: "Delivery", Body: `{"RecordType":"Delivery","MessageID":"{{id}}","Recipient":"sam@example.com","DeliveredAt":"{{time}}","Details":"250 OK"}`},
	},
}
