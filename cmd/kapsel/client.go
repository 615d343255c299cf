package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net"
	"net/http"
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

// clientSettings are shared by the commands that ask a running service.
type clientSettings struct {
	Server      string      `name:"kapsel-url" env:"KAPSEL_URL" default:"http://127.0.0.1:8080" placeholder:"URL" help:"Where Kapsel is (${env}, default ${default})."`
	APIKey      secret.Text `name:"api-key" env:"KAPSEL_API_KEY" placeholder:"KEY" help:"A tenant's key or the admin key (${env}, default: admin.key beside the SQLite database, where Kapsel is on this machine)."`
	DatabaseURL string      `name:"database-url" env:"DATABASE_URL" hidden:"" help:"Where admin.key is looked for."`
	JSON        bool        `name:"json" xor:"output" help:"Print JSON for programs, one object a line."`
	Quiet       bool        `name:"quiet" short:"q" xor:"output" help:"Print ids only, one a line."`
}

// action is what a command asks of the service.
type action interface {
	Help() string // examples
	do(ctx context.Context, s *session) error
}

// ask is a command that asks a running service.
type ask[A action] struct {
	clientSettings
	Action A `embed:""`
}

// Help is shown below the command's help.
func (c ask[A]) Help() string { return c.Action.Help() }

// Run asks, and says what to do when that fails.
func (c *ask[A]) Run(ctx context.Context, io streams) error {
	s, err := c.connect(io)
	if err != nil {
		return err
	}
	return s.advise(c.Action.do(ctx, s))
}

// session is a client, and where and how its answers are printed.
type session struct {
	*client.Client
	streams
	clientSettings
	keyFrom string // what holds the key
}

func (c clientSettings) connect(io streams) (*session, error) {
	key, from, err := c.key()
	if err != nil {
		return nil, err
	}
	api, err := client.New(c.Server, key)
	if err != nil {
		return nil, settingError("KAPSEL_URL (--kapsel-url), KAPSEL_API_KEY (--api-key): %v", err)
	}
	return &session{api, io, c, from}, nil
}

// key is the key that is set, else the one in the admin key's file. That key is not sent to
// another machine than the one that holds it.
func (c clientSettings) key() (key, from string, err error) {
	if !c.APIKey.IsZero() {
		return c.APIKey.Reveal(), "KAPSEL_API_KEY (--api-key)", nil
	}
	if !local(c.Server) {
		return "", "", settingError("KAPSEL_API_KEY (--api-key): must be given for a server on another machine")
	}
	folders := []string{"kapsel-data", "kapsel-dev"}
	if path, ok := strings.CutPrefix(c.DatabaseURL, "sqlite:"); ok {
		folders = []string{filepath.Dir(path)}
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

// local reports whether a URL's host is this machine's loopback.
func local(server string) bool {
	u, err := url.Parse(server)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return err == nil && ip.IsLoopback() || u.Hostname() == "localhost"
}

// advise adds to an error what its reader can do.
func (s *session) advise(err error) error {
	var refused *client.Error
	var unreached *url.Error
	var network net.Error
	switch {
	case errors.As(err, &refused) && refused.Status == http.StatusUnauthorized:
		return fmt.Errorf("%s refused the key of %s; is it a key of that server, and neither revoked nor expired? %w", s.Server, s.keyFrom, err)
	case errors.As(err, &unreached) && errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.As(err, &unreached) && errors.As(err, &network):
		return fmt.Errorf("no answer from %s; is Kapsel running there? KAPSEL_URL (--kapsel-url) says where it is: %w", s.Server, unreached.Err)
	}
	return err
}

// printed is an error of writing to standard output.
func printed(_ int, err error) error {
	if err != nil {
		return fmt.Errorf("print the answer: %w", err)
	}
	return nil
}

// show prints one object: as JSON, its id, or what human prints of it.
func (s *session) show(v any, id string, human func(io.Writer)) error {
	switch {
	case s.JSON:
		return s.json(v)
	case s.Quiet:
		return printed(fmt.Fprintln(s.out, id))
	}
	var text bytes.Buffer
	human(&text)
	return printed(s.out.Write(text.Bytes()))
}

func (s *session) json(v any) error {
	e := json.NewEncoder(s.out)
	e.SetEscapeHTML(false)
	return printed(0, e.Encode(v))
}

// removed tells people what was done to an object that is gone.
func (s *session) removed(id, done string) error {
	return s.show(map[string]string{"id": id, "status": done}, id, func(w io.Writer) { fmt.Fprintf(w, "%s is %s\n", clean(id), done) })
}

// most bounds a list.
type most struct {
	Limit int `default:"50" placeholder:"N" help:"Show at most this many, 0: all (default ${default})."`
}

// column is a column of a table. The first one is the id.
type column[T any] struct {
	title string
	cell  func(T) string
}

// list prints objects as a table, as JSON or their ids.
func list[T any](s *session, objects iter.Seq2[T, error], limit most, columns ...column[T]) error {
	row := func(cell func(column[T]) string) (cells []string) {
		for _, c := range columns {
			cells = append(cells, cell(c))
		}
		return cells
	}
	rows := [][]string{row(func(c column[T]) string { return c.title })}
	n := 0
	for v, err := range objects {
		if err != nil {
			return err
		}
		if n++; limit.Limit > 0 && n > limit.Limit {
			fmt.Fprintln(s.err, "there are more; --limit 0 shows all")
			break
		}
		switch {
		case s.JSON:
			err = s.json(v)
		case s.Quiet:
			err = printed(fmt.Fprintln(s.out, columns[0].cell(v)))
		default:
			rows = append(rows, row(func(c column[T]) string { return c.cell(v) }))
		}
		if err != nil {
			return err
		}
	}
	if s.JSON || s.Quiet {
		return nil
	}
	if n == 0 {
		fmt.Fprintln(s.err, "there are none")
		return nil
	}
	var text bytes.Buffer
	table(&text, rows)
	return printed(s.out.Write(text.Bytes()))
}

// table prints rows with their cells below each other.
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
	// Trailing blanks of the last column's padding help no one.
	for line := range bytes.Lines(text.Bytes()) {
		fmt.Fprintf(w, "%s\n", bytes.TrimRight(line, " \n"))
	}
}

// fact is a line of a card: a name and what there is to say, "" for nothing.
type fact struct{ name, value string }

// card prints facts below each other.
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

// clean is text of others, fit for a terminal: what is not printable is escaped.
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

// or is what a pointer points to, "-" for nil.
func or[T any](p *T) string {
	if p == nil {
		return "-"
	}
	return fmt.Sprint(*p)
}

// there is what a pointer points to, "" for nil: no fact.
func there[T any](p *T) string {
	if p == nil {
		return ""
	}
	return fmt.Sprint(*p)
}

// ago is a time as people say it, seen from now.
func ago(t time.Time) string {
	d := time.Since(t)
	if d < 0 {
		return "in " + roughly(-d)
	}
	return roughly(d) + " ago"
}

func agoOr(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return ago(*t)
}

// roughly is a duration in its largest unit.
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

// at is a time, exact and as people say it.
func at(t time.Time) string {
	return t.Local().Format("2006-01-02 15:04:05.000 MST") + " (" + ago(t) + ")"
}

func atOr(t *time.Time) string {
	if t == nil {
		return ""
	}
	return at(*t)
}

// moment is a time on the command line: RFC 3339, or a duration before now.
type moment struct{ time.Time }

// UnmarshalText reads a moment.
func (m *moment) UnmarshalText(text []byte) error {
	if d, err := time.ParseDuration(string(text)); err == nil {
		m.Time = time.Now().Add(-d)
		return nil
	}
	t, err := time.Parse(time.RFC3339Nano, string(text))
	if err != nil {
		return errors.New("must be a time such as 2026-01-31T12:00:00Z, or how long ago, such as 1h")
	}
	m.Time = t
	return nil
}
