package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/audit"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/receipt"
)

const plainText = "text/plain; charset=utf-8"

// AttestationPath begins the paths that show a log to who knows its id.
const AttestationPath = "/attestation/"

// audit adds the routes of the audit log. Those below AttestationPath need no key; the paths of the
// checkpoint and the tiles, which have no JSON, are those of C2SP tlog-tiles.
func (a *api) audit(mux *http.ServeMux) {
	op := func(id, path, summary string) huma.Operation {
		return huma.Operation{OperationID: id, Method: http.MethodGet, Path: path, Summary: summary, Tags: []string{"Audit log"}}
	}
	refusing := failure{422, kapsel.InvalidRequest}
	busy := failure{429, kapsel.RateLimited}
	proof := op("get-proof", "/v1/attempts/{id}/proof", "Get the proof package of an attempt")
	proof.Responses = map[string]*huma.Response{"200": {
		Description: "The package; with Accept: text/plain as a C2SP tlog-proof",
		Content: map[string]*huma.MediaType{
			"application/json": {Schema: a.huma.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Proof](), true, "")},
			"text/plain":       {Schema: &huma.Schema{Type: huma.TypeString}},
		},
	}}
	add(a, access.Read, fails(proof, failure{409, kapsel.Conflict}), a.getProof)
	add(a, access.Read, fails(op("get-audit-log", "/v1/attestation", "Get the state of the tenant's audit log"), failure{404, kapsel.NotFound}), got(a.Manage.AuditLog, (*AuditLogQuery).ref, viewAuditLog))
	add(a, access.Anyone, fails(op("get-head", AttestationPath+"{log}/sth", "Get the newest published head of a log"), busy), a.getHead)
	add(a, access.Anyone, fails(op("get-inclusion-proof", AttestationPath+"{log}/proof/{index}", "Prove that a leaf is in a log"), refusing, busy), a.getInclusion)
	add(a, access.Anyone, fails(op("get-consistency-proof", AttestationPath+"{log}/consistency", "Prove that a log only grew"), refusing, busy), a.getConsistency)
	add(a, access.Anyone, fails(op("list-log-keys", AttestationPath+"{log}/keys", "List the public keys of a log"), busy), a.listLogKeys)
	mux.HandleFunc("GET "+AttestationPath+"{log}/checkpoint", a.getCheckpoint)
	mux.HandleFunc("GET "+AttestationPath+"{log}/tile/{level}/{n...}", a.getTile)
}

// LogPath is a route below one log.
type LogPath struct {
	Log string `path:"log" doc:"The log's id, 32 hexadecimal digits"`
}

// id returns the log's id. What is no id is answered as an id that nothing has.
func (p LogPath) id() (kapsel.LogID, error) {
	id, err := kapsel.ParseLogID(p.Log)
	if err != nil {
		return id, store.NotFound("audit log")
	}
	return id, nil
}

// proofAnswer is a proof package as JSON or as text.
type proofAnswer struct {
	ContentType string `header:"Content-Type"`
	Body        []byte
}

// getProof answers in the form that the request prefers: JSON unless it asks for text/plain.
func (a *api) getProof(ctx context.Context, in *AttemptPath) (*proofAnswer, error) {
	p, err := a.Manage.Proof(ctx, callerOf(ctx), in.ID)
	if err != nil {
		return nil, err
	}
	if wantsText(callOf(ctx).r.Header.Values("Accept")) {
		return &proofAnswer{plainText, []byte(p.Text())}, nil
	}
	body, err := json.Marshal(p)
	return &proofAnswer{"application/json", append(body, '\n')}, err
}

// wantsText reports whether the first form of an Accept header that a proof has is text/plain.
func wantsText(accept []string) bool {
	for kind := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		kind, _, _ = strings.Cut(kind, ";")
		switch strings.ToLower(strings.TrimSpace(kind)) {
		case "text/plain":
			return true
		case "application/json", "application/*", "*/*":
			return false
		}
	}
	return false
}

// AuditLogQuery is whose log is asked for.
type AuditLogQuery struct {
	TenantID kapsel.TenantID `query:"tenant_id" doc:"Whose; needed with the admin key, and only there"`
}

func (in *AuditLogQuery) ref() kapsel.TenantID { return in.TenantID }

// HeadQuery is which head of a log is asked for.
type HeadQuery struct {
	LogPath
	Witnessed bool `query:"witnessed" doc:"true: the newest head that as many witnesses have signed as the log wants"`
}

func (a *api) getHead(ctx context.Context, in *HeadQuery) (*out[SignedTreeHead], error) {
	id, err := in.id()
	if err != nil {
		return nil, err
	}
	head, err := a.Manage.AuditHead(ctx, a.reader(callOf(ctx).r), id, in.Witnessed)
	return shownAs(viewHead, head, err)
}

// InclusionPath is which leaf is proven to be in which size of a log.
type InclusionPath struct {
	LogPath
	Index    int64 `path:"index"`
	TreeSize int64 `query:"tree_size" doc:"At most that of the published head; without it that one"`
}

func (a *api) getInclusion(ctx context.Context, in *InclusionPath) (*out[InclusionProof], error) {
	id, err := in.id()
	if err != nil {
		return nil, err
	}
	p, err := a.Manage.AuditInclusion(ctx, a.reader(callOf(ctx).r), id, in.Index, given(ctx, "tree_size", &in.TreeSize))
	return shownAs(viewInclusion, p, err)
}

// ConsistencyQuery is between which sizes a log is proven to have only grown.
type ConsistencyQuery struct {
	LogPath
	From int64 `query:"from" doc:"The smaller size; 0 begins every log"`
	To   int64 `query:"to" doc:"At most that of the published head; without it that one"`
}

func (a *api) getConsistency(ctx context.Context, in *ConsistencyQuery) (*out[ConsistencyProof], error) {
	id, err := in.id()
	if err != nil {
		return nil, err
	}
	p, err := a.Manage.AuditConsistency(ctx, a.reader(callOf(ctx).r), id, in.From, given(ctx, "to", &in.To))
	return shownAs(viewConsistency, p, err)
}

func (a *api) listLogKeys(ctx context.Context, in *LogPath) (*out[LogKeys], error) {
	id, err := in.id()
	if err != nil {
		return nil, err
	}
	keys, err := a.Manage.AuditKeys(ctx, a.reader(callOf(ctx).r), id)
	if err != nil {
		return nil, err
	}
	return answer(LogKeys{mapped(keys, viewLogKey)}), nil
}

// given returns the value of a query parameter; nil: the request has no such parameter.
func given(ctx context.Context, name string, v *int64) *int64 {
	if !callOf(ctx).r.URL.Query().Has(name) {
		return nil
	}
	return v
}

// reader returns who makes a request that needs no key.
func (a *api) reader(r *http.Request) manage.Reader {
	return func() (access.Caller, error) {
		if r.Header.Get("Authorization") == "" {
			return access.Caller{}, access.ErrUnauthorized
		}
		return a.Guard.Caller(r)
	}
}

// getCheckpoint writes the signed note of the newest published head.
func (a *api) getCheckpoint(w http.ResponseWriter, r *http.Request) {
	id, err := LogPath{r.PathValue("log")}.id()
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	head, err := a.Manage.AuditHead(r.Context(), a.reader(r), id, r.URL.Query().Get("witnessed") == "true")
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	w.Header().Set("Content-Type", plainText)
	w.Write(head.Note)
}

// getTile writes the hashes of a tile.
func (a *api) getTile(w http.ResponseWriter, r *http.Request) {
	id, err := LogPath{r.PathValue("log")}.id()
	level, n, width, ok := parseTile(r.PathValue("level"), r.PathValue("n"))
	if err != nil || !ok {
		a.refuse(w, r, store.NotFound("tile"))
		return
	}
	b, err := a.Manage.AuditTile(r.Context(), a.reader(r), id, level, n, width)
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Write(b)
}

// tileWidth is the number of hashes in a complete tile.
const tileWidth = 256

// parseTile returns which tile a path names, behind tile/: LEVEL and N or N.p/WIDTH, where N is in groups
// of three digits, each but the last behind an x (C2SP tlog-tiles).
func parseTile(levelText, text string) (level int, n int64, width int, ok bool) {
	level, err := strconv.Atoi(levelText)
	if err != nil || level < 0 || level > 63 || strconv.Itoa(level) != levelText {
		return 0, 0, 0, false
	}
	text, partial, isPartial := strings.Cut(text, ".p/")
	width = tileWidth
	if isPartial {
		if width, err = strconv.Atoi(partial); err != nil || width < 1 || width >= tileWidth || strconv.Itoa(width) != partial {
			return 0, 0, 0, false
		}
	}
	groups := strings.Split(text, "/")
	if len(groups) > 6 { // n is below 10^18
		return 0, 0, 0, false
	}
	for i, group := range groups {
		if i < len(groups)-1 {
			if group, ok = strings.CutPrefix(group, "x"); !ok {
				return 0, 0, 0, false
			}
		}
		digits, err := strconv.ParseUint(group, 10, 16)
		if err != nil || len(group) != 3 || i == 0 && len(groups) > 1 && digits == 0 {
			return 0, 0, 0, false
		}
		n = 1000*n + int64(digits)
	}
	return level, n, width, true
}

// AuditLog is the state of a tenant's audit log as the API shows it.
type AuditLog struct {
	Log       *string         `json:"log" nullable:"true" doc:"The log's id; null: nothing was recorded yet"`
	Origin    *string         `json:"origin" nullable:"true" doc:"The log's name in its checkpoints"`
	Size      int64           `json:"size" doc:"How many leaves it has"`
	Head      *SignedTreeHead `json:"head" doc:"The newest published head; null: none was published yet"`
	Lag       duration        `json:"lag" doc:"How long the oldest leaf that is under no published head has waited"`
	Fault     *string         `json:"fault" nullable:"true" doc:"Why no head is signed; null: there is no reason"`
	Retention duration        `json:"retention" doc:"How long the texts of leaves are kept"`
	Public    bool            `json:"public" doc:"Whether who knows the log's id can read its heads and hashes without a key"`
	// WitnessedHead may be older than Head: heads are published whatever witnesses do.
	WitnessedHead *SignedTreeHead `json:"witnessed_head" doc:"The newest head that as many witnesses have signed as the log wants; null: none"`
	Wanted        int             `json:"witnesses_wanted" doc:"How many witnesses must have signed a head; 0: none is asked"`
	Witnesses     []WitnessState  `json:"witnesses" doc:"What each witness did last"`
	// LastCheck is about this log alone.
	LastCheck *LogCheck `json:"last_fsck" doc:"The last run of kapsel fsck; null: there was none, or it was before the log"`
}

// WitnessState is what a witness did last for a log.
type WitnessState struct {
	Key      string     `json:"key" doc:"Its public key, a C2SP vkey, which begins with its name"`
	Size     int64      `json:"size" doc:"How many leaves it remembers; 0: it has said nothing yet"`
	SignedAt *timestamp `json:"signed_at" nullable:"true" doc:"When it last signed; null: never"`
	Error    *string    `json:"error" nullable:"true" doc:"Why it has not signed the newest head; null: there is no reason"`
}

func viewWitness(s audit.WitnessState) WitnessState {
	return WitnessState{s.Key, s.Size, timeOrNull(s.At), orNull(s.Error)}
}

// LogCheck is a check of a log as the API shows it.
type LogCheck struct {
	At      timestamp `json:"at" doc:"When it began"`
	Finding *string   `json:"finding" nullable:"true" doc:"The first thing that did not fit; null: everything did"`
}

// TransformSchema says which objects may be null.
func (AuditLog) TransformSchema(_ huma.Registry, s *huma.Schema) *huma.Schema {
	return mayBeNull(mayBeNull(mayBeNull(s, "head"), "witnessed_head"), "last_fsck")
}

func viewAuditLog(l *manage.AuditLog) AuditLog {
	v := AuditLog{Lag: duration(l.Lag), Retention: duration(l.Settings.Kept()), Public: !l.Settings.Private}
	if l.Log != nil {
		v.Log, v.Origin, v.Size, v.Fault = new(l.Log.ID.String()), new(l.Log.ID.Origin()), l.Log.Size, orNull(l.Log.Fault)
	}
	if l.Head != nil {
		v.Head = new(viewHead(l.Head))
	}
	if l.Witnessed != nil {
		v.WitnessedHead = new(viewHead(l.Witnessed))
	}
	v.Wanted, v.Witnesses = l.Wanted, mapped(l.Witnesses, viewWitness)
	if c := l.LastCheck; c != nil && l.Log != nil && c.At.After(l.Log.CreatedAt) {
		v.LastCheck = &LogCheck{timestamp(c.At), orNull(c.Findings[l.Log.ID])}
	}
	return v
}

// SignedTreeHead is a published head of a log as the API shows it.
type SignedTreeHead struct {
	TreeSize   int64     `json:"tree_size" doc:"How many leaves it is of"`
	RootHash   string    `json:"root_hash" doc:"Base64 of 32 bytes"`
	Timestamp  timestamp `json:"timestamp" doc:"When it was signed"`
	Checkpoint string    `json:"checkpoint" doc:"The signed head: a C2SP tlog-checkpoint. All else here is a view of it"`
	PublicKey  string    `json:"public_key" doc:"That signed it: base64 of 32 bytes"`
	KeyID      string    `json:"key_id" doc:"By which signature lines name the key"`
	Witnessed  bool      `json:"witnessed" doc:"Whether as many witnesses have signed it as the log wants; their signatures are in the checkpoint"`
}

func viewHead(h *manage.AuditedHead) SignedTreeHead {
	return SignedTreeHead{
		TreeSize: h.Size, RootHash: receipt.Hash(h.Root).String(), Timestamp: timestamp(h.SignedAt), Checkpoint: string(h.Note),
		PublicKey: base64.StdEncoding.EncodeToString(h.Key.Public), KeyID: keyID(h.Key), Witnessed: h.Witnessed,
	}
}

func keyID(k receipt.Key) string { return fmt.Sprintf("%08x", k.ID()) }

// InclusionProof is a proof that a leaf is in a log as the API shows it.
type InclusionProof struct {
	LeafHash    string   `json:"leaf_hash" doc:"Base64 of 32 bytes"`
	LeafIndex   int64    `json:"leaf_index"`
	TreeSize    int64    `json:"tree_size"`
	ProofHashes []string `json:"proof_hashes" doc:"From the leaf's sibling on (RFC 6962, section 2.1.1)"`
	RootHash    string   `json:"root_hash" doc:"Base64 of 32 bytes"`
}

func viewInclusion(p *receipt.InclusionProof) InclusionProof {
	return InclusionProof{p.LeafHash.String(), p.LeafIndex, p.TreeSize, mapped(p.ProofHashes, receipt.Hash.String), p.RootHash.String()}
}

// ConsistencyProof is a proof that a log only grew as the API shows it.
type ConsistencyProof struct {
	From        int64    `json:"from" doc:"The smaller size"`
	To          int64    `json:"to" doc:"The larger size"`
	ProofHashes []string `json:"proof_hashes" doc:"RFC 6962, section 2.1.2"`
}

func viewConsistency(p *receipt.ConsistencyProof) ConsistencyProof {
	return ConsistencyProof{p.From, p.To, mapped(p.ProofHashes, receipt.Hash.String)}
}

// LogKeys are the public keys of a log, the current one last. The list has one page.
type LogKeys struct {
	Data []LogKey `json:"data"`
}

// LogKey verifies heads of a log.
type LogKey struct {
	PublicKey  string     `json:"public_key" doc:"Base64 of 32 bytes"`
	KeyID      string     `json:"key_id" doc:"By which signature lines name the key"`
	Vkey       string     `json:"vkey" doc:"The key with the log's name, as C2SP signed-note writes it"`
	ValidFrom  timestamp  `json:"valid_from" doc:"When it began to sign"`
	ValidUntil *timestamp `json:"valid_until" nullable:"true" doc:"When another key took its place; null: it signs now"`
}

func viewLogKey(k manage.AuditKey) LogKey {
	return LogKey{base64.StdEncoding.EncodeToString(k.Key.Public), keyID(k.Key), k.Key.String(), timestamp(k.From), timeOrNull(k.Until)}
}

// Proof is a proof package: see package receipt, whose JSON it is.
type Proof struct {
	Leaf           string         `json:"leaf" doc:"The exact text of the leaf"`
	Opening        Opening        `json:"opening" doc:"What opens the leaf's commitments"`
	InclusionProof InclusionProof `json:"inclusion_proof" doc:"That the leaf is in the tree of the checkpoint"`
	Checkpoint     string         `json:"checkpoint" doc:"The signed head: a C2SP tlog-checkpoint"`
}

// Opening lets who has it check the leaf's commitments.
type Opening struct {
	Salt *string `json:"salt" nullable:"true" doc:"64 hexadecimal digits; null: it was deleted, or the event is older than the log"`
}
