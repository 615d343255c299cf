package transfer

// Kind is the type of a column's values, which is one for all stores. In a Row, NULL is nil.
type Kind uint8

// The kinds, with the Go type of their values.
const (
	ID     Kind = iota // [16]byte, also all zeros
	Time               // int64, microseconds since 1970
	Int                // int64
	Bool               // bool
	Text               // string
	Bytes              // []byte
	Counts             // []int64, in the order of kapsel.Stats.Counters
)

// Column is a column of a Table.
type Column struct {
	Name string
	Kind Kind
}

// Table is what every store keeps of one sort, whatever its own tables look like.
type Table struct {
	Name    string
	Columns []Column
}

// Column returns the index of a column by its name, -1 where there is none.
func (t *Table) Column(name string) int {
	for i, c := range t.Columns {
		if c.Name == name {
			return i
		}
	}
	return -1
}

// Row is a row of a Table: the values of its columns in their order.
type Row []any

// size is about how many bytes a row takes.
func (r Row) size() int {
	n := 0
	for _, v := range r {
		switch v := v.(type) {
		case string:
			n += len(v)
		case []byte:
			n += len(v)
		}
		n += 16
	}
	return n
}

// Tables are all that is copied, in the order in which it is: what a row names comes first.
//
// Nodes and duties are not copied. To the target, the nodes that hold deliveries and probes of
// the source are dead, so its first server takes over what they held.
var Tables = []Table{
	{"tenants", []Column{
		{"id", ID}, {"name", Text}, {"plan", Text}, {"limits", Text}, {"audit", Text}, {"data_key", Bytes},
		{"created_at", Time}, {"updated_at", Time}, {"deleted_at", Time}, {"revision", Int},
	}},
	{"keys", []Column{
		{"id", ID}, {"tenant_id", ID}, {"name", Text}, {"scope", Text}, {"prefix", Text}, {"hash", Bytes},
		{"created_at", Time}, {"expires_at", Time}, {"last_used_at", Time}, {"revoked_at", Time}, {"revision", Int},
	}},
	{"endpoints", []Column{
		{"id", ID}, {"tenant_id", ID}, {"part", Int}, {"state", Text}, {"disabled_reason", Text}, {"config", Text},
		{"created_at", Time}, {"updated_at", Time}, {"deleted_at", Time}, {"revision", Int}, {"destination", Int}, {"replan", Int}, {"app_id", ID}, {"uid", Text},
	}},
	{"sources", []Column{
		{"id", ID}, {"tenant_id", ID}, {"state", Text}, {"config", Text},
		{"created_at", Time}, {"updated_at", Time}, {"deleted_at", Time}, {"revision", Int},
	}},
	{"apps", []Column{
		{"id", ID}, {"tenant_id", ID}, {"uid", Text}, {"config", Text},
		{"created_at", Time}, {"updated_at", Time}, {"deleted_at", Time}, {"revision", Int},
	}},
	{"event_types", []Column{
		{"id", ID}, {"tenant_id", ID}, {"name", Text}, {"config", Text},
		{"created_at", Time}, {"updated_at", Time}, {"deleted_at", Time}, {"revision", Int},
	}},
	{"circuits", []Column{
		{"endpoint_id", ID}, {"destination", Int}, {"state", Text}, {"changed_at", Time}, {"retry_at", Time},
		{"probe", ID}, {"hold_until", Time}, {"version", Int}, {"revision", Int},
	}},
	// position is the event's place in the stream; of events with the same one, the lower id
	// comes first. endpoint_id is the event's origin, and delivery_id its first delivery to that.
	{"events", []Column{
		{"position", Int}, {"id", ID}, {"tenant_id", ID}, {"endpoint_id", ID}, {"delivery_id", ID}, {"received_at", Time},
		{"signature", Text}, {"idempotency_key", Bytes}, {"traceparent", Bytes}, {"content_type", Bytes},
		{"query", Bytes}, {"header", Bytes}, {"body", Bytes}, {"type", Text}, {"extra", Text}, {"unmatched", Bool}, {"app_id", ID}, {"salt", Bytes},
		{"erased_at", Time}, {"erasing", ID},
	}},
	// Those that are remembered, one of each key.
	{"idempotency_keys", []Column{
		{"endpoint_id", ID}, {"key", Bytes}, {"event_id", ID}, {"created_at", Time}, {"expires_at", Time},
	}},
	{"guards", []Column{
		{"endpoint_id", ID}, {"guard", Bytes}, {"event_id", ID}, {"created_at", Time}, {"expires_at", Time},
	}},
	{"deliveries", []Column{
		{"id", ID}, {"event_id", ID}, {"endpoint_id", ID}, {"tenant_id", ID}, {"status", Int}, {"due_at", Time}, {"put_off_by", Int},
		{"node", ID}, {"token", ID}, {"claims", Int}, {"attempts", Int}, {"counted", Int}, {"takeovers", Int},
		{"last_status_code", Int}, {"last_error_code", Text}, {"last_attempt", ID}, {"replay_of", ID}, {"replayed_as", ID},
		{"size", Int}, {"created_at", Time}, {"finished_at", Time}, {"replay_id", ID}, {"by_duplicate", Bool}, {"first_of", ID}, {"told", Int},
	}},
	{"expansions", []Column{{"event_id", ID}, {"tenant_id", ID}, {"after_endpoint", ID}}},
	// previous is the attempt before it of the same delivery.
	{"attempts", []Column{
		{"id", ID}, {"delivery_id", ID}, {"event_id", ID}, {"endpoint_id", ID}, {"tenant_id", ID}, {"number", Int}, {"previous", ID},
		{"started_at", Time}, {"duration", Int}, {"status_code", Int}, {"error_code", Text}, {"error", Bytes},
		{"request_headers", Bytes}, {"response_headers", Bytes}, {"response_body", Bytes}, {"logged", Bool},
	}},
	{"audit_outbox", []Column{{"id", ID}, {"entry", Bytes}}},
	{"audit_logs", []Column{
		{"log", ID}, {"tenant_id", ID}, {"created_at", Time}, {"closed_at", Time}, {"epoch", Int}, {"size", Int},
		{"root", Bytes}, {"edge", Bytes}, {"fault", Text}, {"texts_from", Int}, {"dropped_at", Time},
	}},
	{"audit_leaves", []Column{{"log", ID}, {"n", Int}, {"attempt_id", ID}, {"hash", Bytes}, {"text", Bytes}}},
	{"audit_tiles", []Column{{"log", ID}, {"level", Int}, {"n", Int}, {"hashes", Bytes}}},
	{"audit_witnessed", []Column{{"log", ID}, {"size", Int}, {"root", Bytes}, {"signed_at", Time}, {"note", Bytes}, {"states", Bytes}}},
	{"audit_heads", []Column{{"log", ID}, {"size", Int}, {"root", Bytes}, {"signed_at", Time}, {"note", Bytes}, {"kept", Bool}}},
	{"ledger_outbox", []Column{{"id", ID}, {"facts", Bytes}}},
	{"ledger_totals", []Column{
		{"tenant_id", ID}, {"endpoint_id", ID}, {"accepted", Int}, {"replayed", Int}, {"delivered", Int}, {"failed", Int}, {"dead_letter", Int}, {"canceled", Int},
	}},
	{"ledger_books", []Column{{"tenant_id", ID}, {"endpoint_id", ID}, {"books", Bytes}, {"cut", Bytes}, {"reported_at", Time}}},
	{"ledger_conflicts", []Column{
		{"n", Int}, {"kind", Int}, {"delivery_id", ID}, {"event_id", ID}, {"endpoint_id", ID}, {"tenant_id", ID}, {"at", Time}, {"answer", Text}, {"found_at", Time},
	}},
	// Stores walk a replay's set in orders of their own, so of its cursor only the endpoint is
	// copied, whose part of the set is walked again: what was made of it has left the set.
	{"replays", []Column{
		{"id", ID}, {"tenant_id", ID}, {"endpoint_id", ID}, {"since", Time}, {"until", Time}, {"statuses", Int}, {"rate", Int},
		{"status", Text}, {"total", Int}, {"created", Int}, {"delivered", Int}, {"failed", Int},
		{"created_at", Time}, {"finished_at", Time}, {"at_endpoint", ID}, {"walked", Bool}, {"missing", Bool},
	}},
	{"endpoint_stats", []Column{{"endpoint_id", ID}, {"hour", Time}, {"counters", Counts}}},
	{"tenant_usage", []Column{
		{"tenant_id", ID}, {"day", Time}, {"events", Int}, {"bytes", Int}, {"attempts", Int}, {"deliveries", Int}, {"delivered", Int},
	}},
	{"answers", []Column{
		{"owner", ID}, {"key", Text}, {"request", Bytes}, {"seed", ID}, {"created_at", Time}, {"expires_at", Time},
		{"status", Int}, {"made", Text}, {"body", Bytes}, {"sealed", Bool},
	}},
	{"changes", []Column{
		{"id", ID}, {"tenant_id", ID}, {"at", Time}, {"actor", Text}, {"key_id", ID}, {"verb", Text},
		{"kind", Text}, {"subject", Text}, {"name", Text}, {"before", Text}, {"after", Text},
	}},
	{"portal_logos", []Column{
		{"tenant_id", ID}, {"type", Text}, {"image", Bytes}, {"hash", Bytes}, {"alt", Text}, {"updated_at", Time},
	}},
	{"meta", []Column{{"name", Text}, {"value", Bytes}}},
}
