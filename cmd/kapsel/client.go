package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/kapsel-hq/kapsel/client"
	"github.com/kapsel-hq/kapsel/internal/secret"
)

// clientSettings holds the settings of the commands that call a running service.
type clientSettings struct {
	Server      string      `name:"kapsel-url" env:"KAPSEL_URL" default:"http://127.0.0.1:8080" placeholder:"URL" help:"Where Kapsel is (${env}, default ${default})."`
	APIKey      secret.Text `name:"api-key" env:"KAPSEL_API_KEY" placeholder:"KEY" help:"A tenant's key or the admin key (${env}; default, where Kapsel is on this machine: KAPSEL_ADMIN_KEY, or admin.key beside the SQLite database)."`
	AdminKey    secret.Text `name:"admin-key" env:"KAPSEL_ADMIN_KEY" hidden:"" help:"What the service on this machine takes."`
	DatabaseURL string      `name:"database-url" env:"DATABASE_URL" hidden:"" help:"Where admin.key is looked for."`
	JSON        bool        `name:"json" xor:"output" help:"Print what the API answered, byte for byte, one object a line."`
	Quiet       bool        `name:"quiet" short:"q" xor:"output" help:"Print ids only, one a line."`
}

// action is a command's own part: its flags and arguments, and what it does with the service.
type action interface {
	Help() string // examples
	do(ctx context.Context, s *session) error
}

// ask is a command that calls a running service.
type ask[A action] struct {
	clientSettings
	Action A `embed:""`
}

// Help returns text that kong shows below the command's help.
func (c ask[A]) Help() string { return c.Action.Help() }

// Run runs the action. Its error says what the user can do.
func (c *ask[A]) Run(ctx context.Context, io streams) error {
	s, err := c.connect(io)
	if err != nil {
		return err
	}
	ctx = client.WithRawAnswers(ctx, func(answer []byte) { s.raw = append(s.raw[:0], answer...) })
	return s.advise(c.Action.do(ctx, s))
}

// session is one run of a command: a client of the service, and where and how answers are printed.
type session struct {
	*client.Client
	streams
	clientSettings
	key     string // the API key in use …
	keyFrom string // … and the setting or file that it comes from
	raw     []byte // the latest answer, or the latest object of a list, byte for byte
	named   sentBy
}

func (c clientSettings) connect(io streams) (*session, error) {
	key, from, err := c.keyInForce()
	if err != nil {
		return nil, err
	}
	api, err := client.New(c.Server, key)
	if err != nil {
		return nil, settingError("KAPSEL_URL (--kapsel-url), KAPSEL_API_KEY (--api-key): %v", err)
	}
	return &session{Client: api, streams: io, clientSettings: c, key: key, keyFrom: from, named: sentBy{}}, nil
}

// keyInForce returns the API key that is set. If none is set, it returns the admin key of the service on
// this machine: from KAPSEL_ADMIN_KEY or, with SQLite, from the file admin.key. It never returns an admin
// key that is not set as API key for a server on another machine. from says where the key comes from.
func (c clientSettings) keyInForce() (key, from string, err error) {
	if !c.APIKey.IsZero() {
		return c.APIKey.Reveal(), "KAPSEL_API_KEY (--api-key)", nil
	}
	if !local(c.Server) {
		return "", "", settingError("KAPSEL_API_KEY (--api-key): must be given for a server on another machine")
	}
	if !c.AdminKey.IsZero() {
		return c.AdminKey.Reveal(), "KAPSEL_ADMIN_KEY", nil
	}
	folders := []string{"kapsel-data", "kapsel-dev"}
	switch path, ok := strings.CutPrefix(c.DatabaseURL, "sqlite:"); {
	case ok:
		folders = []string{filepath.Dir(path)}
	case c.DatabaseURL != "":
		return "", "", settingError("KAPSEL_API_KEY (--api-key): is not given; with PostgreSQL set it, or KAPSEL_ADMIN_KEY as `kapsel serve` has it")
	}
	for _, folder := range folders {
		file := filepath.Join(folder, "admin.key")
		text, err := os.ReadFile(file)
		switch {
		case errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission):
		case err != nil:
			return "", "", settingError("KAPSEL_API_KEY (--api-key): is not given, and %s cannot be read: %v", file, err)
		case key != "":
			return "", "", settingError("KAPSEL_API_KEY (--api-key): is not given, and both %s and %s have a key; set it, or DATABASE_URL", from, file)
		default:
			key, from = strings.TrimSpace(string(text)), file
		}
	}
	if key == "" {
		return "", "", settingError("KAPSEL_API_KEY (--api-key): is not given, and no admin.key can be read in %s; set it, or run the command where `kapsel serve` runs", strings.Join(folders, " or "))
	}
	return key, from, nil
}

// local reports whether a URL's host is a loopback address or localhost.
func local(server string) bool {
	u, err := url.Parse(server)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return err == nil && ip.IsLoopback() || u.Hostname() == "localhost"
}

// printed returns the error of a write to standard output.
func printed(_ int, err error) error {
	if err != nil {
		return fmt.Errorf("print the answer: %w", err)
	}
	return nil
}

// show prints one object: with --json as it was answered, with --quiet its id, otherwise by calling human.
func (s *session) show(id string, human func(io.Writer)) error {
	switch {
	case s.JSON:
		return s.answered(s.raw)
	case s.Quiet:
		return printed(fmt.Fprintln(s.out, id))
	}
	var text bytes.Buffer
	human(&text)
	return printed(s.out.Write(text.Bytes()))
}

// answered prints JSON as the API wrote it, on a line of its own.
func (s *session) answered(raw []byte) error {
	if !bytes.HasSuffix(raw, []byte("\n")) {
		raw = append(raw, '\n')
	}
	return printed(s.out.Write(raw))
}

// own prints an object that this program made, in JSON.
func (s *session) own(v any) error {
	e := json.NewEncoder(s.out)
	e.SetEscapeHTML(false)
	return printed(0, e.Encode(v))
}

// removed prints what was done to an object that no longer exists, as the API answers with no object.
func (s *session) removed(id, done string) error {
	switch {
	case s.JSON:
		return s.own(map[string]string{"id": id, "status": done})
	case s.Quiet:
		return printed(fmt.Fprintln(s.out, id))
	}
	return printed(fmt.Fprintf(s.out, "%s is %s\n", clean(id), done))
}

// table prints rows of cells in aligned columns.
func table(w io.Writer, rows [][]string) {
	var text bytes.Buffer
	aligned := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			if i > 0 {
				io.WriteString(aligned, "\t")
			}
			io.WriteString(aligned, clean(cell))
		}
		io.WriteString(aligned, "\n")
	}
	aligned.Flush()
	// Remove the padding of the last column.
	for line := range bytes.Lines(text.Bytes()) {
		fmt.Fprintf(w, "%s\n", bytes.TrimRight(line, " \n"))
	}
}

// fact is a line of a card. If the value is "", card leaves the line out.
type fact struct{ name, value string }

// card prints facts one a line, with aligned values.
func card(w io.Writer, facts ...fact) {
	width := 0
	for _, f := range facts {
		if f.value != "" {
			width = max(width, len(f.name))
		}
	}
	for _, f := range facts {
		if f.value != "" {
			fmt.Fprintf(w, "%-*s  %s\n", width, f.name, clean(f.value))
		}
	}
}

// clean returns text from outside in a form that is safe for a terminal: it escapes what is not printable.
func clean(text string) string {
	var b strings.Builder
	for _, r := range text {
		switch {
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// or returns the text of what p points to, "-" for nil.
func or[T any](p *T) string {
	if p == nil {
		return "-"
	}
	return fmt.Sprint(*p)
}

// there returns the text of what p points to, "" for nil.
func there[T any](p *T) string {
	if p == nil {
		return ""
	}
	return fmt.Sprint(*p)
}

// ago returns a time as people say it: how long ago it was, or in how long it will be.
func ago(t time.Time) string {
	d := time.Since(t)
	if d < 0 {
		return "in " + roughly(-d)
	}
	return roughly(d) + " ago"
}

// agoOr is ago for a time that may be missing.
func agoOr(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return ago(*t)
}

// roughly returns a duration in its largest unit.
func roughly(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// at returns a time, exactly and as people say it.
func at(t time.Time) string {
	return t.Local().Format("2006-01-02 15:04:05.000 MST") + " (" + ago(t) + ")"
}

// atOr is at for a time that may be missing: then it returns "".
func atOr(t *time.Time) string {
	if t == nil {
		return ""
	}
	return at(*t)
}
