package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestMain lets this binary be a process whose standard output has lost its reader, or one
// that panics while nobody reads.
func TestMain(m *testing.M) {
	switch os.Getenv("KAPSEL_TEST_OUTPUT") {
	case "reader gone":
		_, _ = io.Copy(io.Discard, os.Stdin) // until the parent has closed the reader
		before := linesLost.Load()
		logTo(os.Stdout, "info", "json", func(log *slog.Logger) {
			log.Info("one")
			log.Info("two")
		})
		if linesLost.Load()-before != 2 {
			os.Exit(3)
		}
		os.Exit(0)
	case "panic":
		panicUnread()
	}
	os.Exit(m.Run())
}

// TestQueue_FG6_ReaderGone checks that the process goes on when the reader of its log is gone.
func TestQueue_FG6_ReaderGone(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "KAPSEL_TEST_OUTPUT=reader gone")
	cmd.Stdout = w
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.Close()
	w.Close()
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("the process that lost its log's reader: %v", err)
	}
}

// TestQueue_FG6_DiskFull checks that lines of the log that do not fit on the disk are dropped
// and counted.
func TestQueue_FG6_DiskFull(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	before := linesLost.Load()
	logTo(full, "info", "json", func(log *slog.Logger) { log.Info("lost") })
	if got := linesLost.Load() - before; got != 1 {
		t.Errorf("%d lines lost, want 1", got)
	}
}

// shortWriter takes room bytes, then fails as a full disk does.
type shortWriter struct {
	bytes.Buffer
	room int
}

func (w *shortWriter) Write(p []byte) (int, error) {
	n, _ := w.Buffer.Write(p[:min(len(p), w.room)])
	w.room -= n
	if n < len(p) {
		return n, errors.New("no space left on device")
	}
	return n, nil
}

// TestQueue_FG6_TornLine checks that the log begins a new line after one that was written in
// part, and says how many were lost.
func TestQueue_FG6_TornLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &shortWriter{room: 20}
		before := linesLost.Load()
		logTo(w, "info", "json", func(log *slog.Logger) {
			for _, message := range []string{"torn", "lost"} {
				log.Info(message)
				synctest.Wait()
			}
			w.room = 1 << 20
			log.Info("whole")
		})
		lines := strings.Split(strings.TrimSuffix(w.String(), "\n"), "\n")
		if len(lines) != 3 || len(lines[0]) != 20 {
			t.Fatalf("lines %q", lines)
		}
		checkFields(t, []byte(lines[1]))
		checkLoss(t, lines[2], 2)
		if got := linesLost.Load() - before; got != 2 {
			t.Errorf("%d lines counted as lost, want 2", got)
		}
	})
}

// checkLoss fails unless a line says that n lines were lost.
func checkLoss(t *testing.T, line string, n int) {
	t.Helper()
	var record struct {
		Level string
		Lines int
	}
	if err := json.Unmarshal([]byte(line), &record); err != nil || record.Level != "WARN" || record.Lines != n {
		t.Errorf("%q does not say that %d lines were lost (%v)", line, n, err)
	}
}

// gate is a writer that takes nothing until it is opened.
type gate struct {
	open chan struct{}
	bytes.Buffer
}

func (g *gate) Write(p []byte) (int, error) {
	<-g.open
	return g.Buffer.Write(p)
}

// TestQueue_NobodyReads checks that logging goes on at once, in limited memory, while nobody reads,
// and that a later reader gets the oldest lines in their order and then the number of those lost.
func TestQueue_NobodyReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const lines = 20_000
		g := &gate{open: make(chan struct{})}
		before := linesLost.Load()
		q := NewQueue(g)
		log := NewLogger(q, "info", "json")
		start := time.Now()
		for i := range lines {
			log.Info("line", "number", i, "padding", strings.Repeat("x", 100))
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("logging waited for %v", took)
		}
		if held := cap(q.waiting); held > 4*queueBytes {
			t.Errorf("the queue holds %d bytes", held)
		}
		close(g.open)
		q.Close(t.Context())
		got := strings.Split(strings.TrimSuffix(g.String(), "\n"), "\n")
		lost := lines - (len(got) - 1)
		if lost < 1 || lost > lines-queueBytes/300 {
			t.Fatalf("%d of %d lines lost", lost, lines)
		}
		for i, line := range got[:len(got)-1] {
			if !strings.Contains(line, fmt.Sprintf(`"number":%d,`, i)) {
				t.Fatalf("line %d is %s", i, line)
			}
		}
		checkLoss(t, got[len(got)-1], lost)
		if counted := linesLost.Load() - before; counted != uint64(lost) {
			t.Errorf("%d lines counted as lost, want %d", counted, lost)
		}
	})
}

// TestQueue_Close checks that the end waits for a reader no longer than allowed, and that lines
// logged later are lost and counted.
func TestQueue_Close(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{open: make(chan struct{})}
		q := NewQueue(g)
		log := NewLogger(q, "info", "json")
		log.Info("one")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		q.Close(ctx)
		if took := time.Since(start); took != time.Second {
			t.Errorf("closing took %v, want 1s", took)
		}
		before := linesLost.Load()
		log.Info("late")
		if got := linesLost.Load() - before; got != 1 {
			t.Errorf("%d lines counted as lost, want 1", got)
		}
		close(g.open)
		<-q.done
	})
}

func TestLastWords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{open: make(chan struct{})}
		start := time.Now()
		if LastWords(g, "words") || time.Since(start) != time.Second {
			t.Errorf("words that nobody read took %v, want 1s and false", time.Since(start))
		}
		close(g.open)
		synctest.Wait()
		if !LastWords(g, " and more") || g.String() != "words and more" {
			t.Errorf("said %q", g.String())
		}
	})
}
