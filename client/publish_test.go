package client

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestPublish_Verbatim: data goes out as the caller wrote it, with white space, escapes and
// numbers that encoding/json would write otherwise.
func TestPublish_Verbatim(t *testing.T) {
	var sent []byte
	var key string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent, _ = io.ReadAll(r.Body)
		key = r.Header.Get("Idempotency-Key")
		if string(sent[:9]) == `{"events"` {
			io.WriteString(w, `{"data":[{"status":201,"event":{"id":"evt_1","deliveries":3}},{"status":503,"error":{"status":503,"code":"E3001","detail":"later","request_id":"req_1"}}]}`)
			return
		}
		w.WriteHeader(http.StatusCreated)
		io.WriteString(w, `{"id":"evt_1","deliveries":3}`)
	}))
	defer server.Close()
	c, err := New(server.URL, "kap_x")
	if err != nil {
		t.Fatal(err)
	}
	const data = "{ \"a\":\t\"<\\u00e4>\", \"n\": 9007199254740993.0 }"
	in := PublishInput{Type: "invoice.paid", Data: json.RawMessage(data), ID: new("1")}
	e, err := c.Publish(WithIdempotencyKey(t.Context(), "k"), "", in)
	if err != nil || e.ID != "evt_1" || e.Deliveries != 3 || key != "k" {
		t.Errorf("%+v, %v, with the key %q", e, err, key)
	}
	if want := `{"type":"invoice.paid","id":"1","data":` + data + `}`; string(sent) != want {
		t.Errorf("sent %s, want %s", sent, want)
	}
	batch, err := c.PublishBatch(t.Context(), "", PublishBatchInput{Events: []PublishInput{in, {Type: "b", BodyBase64: new("aGk="), ContentType: new("a/b")}}})
	if err != nil || len(batch.Data) != 2 || batch.Data[0].Event.Deliveries != 3 {
		t.Fatalf("%+v, %v", batch, err)
	}
	if e := batch.Data[1].Error; e == nil || e.Code != "E3001" || e.Status != 503 || e.RequestID != "req_1" {
		t.Errorf("the error of an event is %+v", e)
	}
	if want := `{"events":[{"type":"invoice.paid","id":"1","data":` + data + `},{"type":"b","body_base64":"aGk=","content_type":"a/b"}]}`; string(sent) != want {
		t.Errorf("sent %s, want %s", sent, want)
	}
	sent = nil
	if _, err := c.PublishBatch(t.Context(), "", PublishBatchInput{Events: []PublishInput{{Type: "a", Data: json.RawMessage(`{`)}}}); err == nil || sent != nil {
		t.Errorf("what is no JSON was sent as %s, %v", sent, err)
	}
}
