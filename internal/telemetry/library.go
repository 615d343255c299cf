package telemetry

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"io"
	"log"
	"log/slog"
	"os"
	"path"
	"strings"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
)

// Lines that libraries log on their own can contain bytes from senders and destinations: net/http
// quotes the bytes of an unexpected response. So Kapsel's log gets only the constant part of such
// a line, and the place that logged it.

// fixedParts holds beginnings of lines that are known to be constant, each with its level; 0: the
// logger's level. The first match counts.
var fixedParts = []struct {
	text  string
	level slog.Level
}{
	// net/http, as a client.
	{"Unsolicited response received on idle HTTP channel", 0},
	{"RoundTripper returned a response & error; ignoring response", 0},
	{"Error enabling Transport HTTP/2 support", 0},
	{"http2: Transport received unsolicited DATA frame; closing connection", 0},
	{"http2: header list too large", 0},
	{"http2: invalid header", 0},
	{"http2: invalid pseudo headers", 0},
	{"protocol error: received DATA after END_STREAM", 0},
	{"protocol error: received DATA before a HEADERS frame", 0},
	{"protocol error: received DATA on a HEAD request", 0},

	// net/http, as a server.
	{"http: TLS handshake error", 0},
	{"http: Accept error", slog.LevelWarn},
	{"http: panic serving", slog.LevelError},
	{"http2: panic serving", slog.LevelError},
	{"http: superfluous response.WriteHeader call", 0},
	{"http: response.WriteHeader on hijacked connection", 0},
	{"http: response.Write on hijacked connection", 0},
	{"http: WriteHeader called with both Transfer-Encoding", 0},
	{"http: invalid Content-Length", 0},
	{"http2: server connection error", 0},
	{"http2: server closing client connection", 0},
	{"http2: received GOAWAY", 0},
	{"timeout waiting for SETTINGS frames", 0},
	{"timeout waiting for PING response", 0},
	{"ignoring invalid trailer", 0},

	// huma, when a client has gone.
	{"could not write error", slog.LevelDebug},
}

// unknownLine replaces a line without a known constant part.
const unknownLine = "a library logged a line that is not shown, since it may hold what others sent"

// LibraryLog returns a logger for a library that needs a log.Logger. Lines have the given level
// unless fixedParts has another.
func LibraryLog(to *slog.Logger, level slog.Level) *log.Logger {
	return log.New(&libraryWriter{to, level}, "", log.Llongfile)
}

// libraryWriter logs the constant part of each line. Lines must begin with the file and line
// number of the logging call (log.Llongfile).
type libraryWriter struct {
	to    *slog.Logger
	level slog.Level
}

func (w *libraryWriter) Write(line []byte) (int, error) {
	source, text, _ := strings.Cut(string(line), ": ")
	dir, file := path.Split(source)
	logFixed(w.to, w.level, text, slog.String("source", path.Join(path.Base(dir), file)))
	return len(line), nil
}

// logFixed logs the constant part of a text. For a panic it adds the stack, whose only values are
// addresses.
func logFixed(to *slog.Logger, level slog.Level, text string, attrs ...slog.Attr) {
	message := unknownLine
	for _, fixed := range fixedParts {
		if strings.HasPrefix(text, fixed.text) {
			message, level = fixed.text, cmp.Or(fixed.level, level)
			break
		}
	}
	if strings.Contains(message, "panic serving") {
		if stack := strings.LastIndex(text, "\ngoroutine "); stack >= 0 {
			attrs = append(attrs, slog.String("stack", text[stack+1:]))
		}
	}
	to.LogAttrs(context.Background(), level, message, attrs...)
}

// AdoptLibraries redirects to a logger everything that libraries log or print on their own:
// through the default loggers of slog and log, through OpenTelemetry's logger, and to os.Stdout
// and os.Stderr. So no library waits for a reader of the process's output, or shows bytes from
// senders and destinations. Code that writes to that output on purpose must save the two variables
// before. undo restores everything except OpenTelemetry's logger.
func AdoptLibraries(to *slog.Logger) (undo func()) {
	standard, writer, flags := slog.Default(), log.Writer(), log.Flags()
	slog.SetDefault(to) // sets log's, too
	log.SetOutput(&libraryWriter{to, slog.LevelInfo})
	log.SetFlags(log.Llongfile)
	otel.SetLogger(logr.FromSlogHandler(messageOnly{to.Handler()}))
	end := adoptPrints(to)
	return func() {
		end()
		slog.SetDefault(standard)
		log.SetOutput(writer)
		log.SetFlags(flags)
	}
}

// MuteLog discards what libraries log with package log, for a process without a log.
func MuteLog() { log.SetOutput(io.Discard) }

// adoptPrints replaces os.Stdout and os.Stderr with a pipe and logs what comes through it, until
// end is called.
func adoptPrints(to *slog.Logger) (end func()) {
	r, w, err := os.Pipe()
	if err != nil {
		to.Warn("what libraries print is not logged", "error", err)
		return func() {}
	}
	stdout, stderr := os.Stdout, os.Stderr
	os.Stdout, os.Stderr = w, w
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer r.Close()
		lines := bufio.NewReader(r)
		for {
			line, err := lines.ReadSlice('\n')
			if len(line) > 0 {
				logFixed(to, slog.LevelInfo, string(line), slog.String("source", "standard output or error"))
			}
			for errors.Is(err, bufio.ErrBufferFull) { // the rest of a long line
				_, err = lines.ReadSlice('\n')
			}
			if err != nil {
				return
			}
		}
	}()
	return func() {
		os.Stdout, os.Stderr = stdout, stderr
		w.Close()
		<-done
	}
}

// messageOnly is a slog.Handler that drops attributes, for a library with constant messages.
// OpenTelemetry logs a header that it cannot parse as an attribute, and headers hold keys.
type messageOnly struct{ slog.Handler }

func (h messageOnly) Handle(ctx context.Context, r slog.Record) error {
	return h.Handler.Handle(ctx, slog.NewRecord(r.Time, r.Level, r.Message, r.PC))
}

func (h messageOnly) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h messageOnly) WithGroup(string) slog.Handler      { return h }
