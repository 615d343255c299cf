package telemetry

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// panicUnread is a process that logs KAPSEL_TEST_BYTES into its standard error, waits until it
// is known that nobody reads, and panics; if its standard input has a byte, it first waits
// until somebody does.
func panicUnread() {
	w, _, err := Stderr()
	if err != nil {
		panic(err)
	}
	wait := func(away bool) {
		for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
			s := w.(*stderr)
			s.mu.Lock()
			now := s.away
			s.mu.Unlock()
			if now == away {
				return
			}
			if time.Now().After(deadline) {
				fmt.Println("waited in vain")
				os.Exit(9)
			}
		}
	}
	log := NewLogger(NewQueue(w), "info", "json")
	size, err := strconv.Atoi(os.Getenv("KAPSEL_TEST_BYTES"))
	if err != nil {
		panic(err)
	}
	for range size / 1000 {
		log.Info("line", slog.String("padding", strings.Repeat("x", 1000)))
	}
	wait(true)
	fmt.Println("nobody reads")
	if n, _ := os.Stdin.Read(make([]byte, 1)); n > 0 {
		wait(false)
	}
	panic("the words of a panic")
}

// TestStderr_Panic checks that a process that panics ends whether its standard error has a reader
// or not, and that a reader gets the panic.
func TestStderr_Panic(t *testing.T) {
	for _, tt := range []struct {
		name string
		size int
		read bool
	}{
		{"the pipe is full", 200_000, false},
		{"the pipe fills", 40_000, false},
		{"somebody reads at last", 200_000, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			stderr, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer stderr.Close()
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), "KAPSEL_TEST_OUTPUT=panic", "KAPSEL_TEST_BYTES="+strconv.Itoa(tt.size))
			cmd.Stderr = w
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			w.Close()
			kill := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
			defer kill.Stop()
			if _, err := stdout.Read(make([]byte, 100)); err != nil {
				t.Fatal(err)
			}
			said := make(chan []byte, 1)
			if tt.read {
				stdin.Write([]byte("x"))
				go func() {
					all, _ := io.ReadAll(stderr)
					said <- all
				}()
			}
			stdin.Close()
			if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 2 {
				t.Errorf("the process that panicked: %v", err)
			}
			if tt.read && !bytes.Contains(<-said, []byte("panic: the words of a panic")) {
				t.Error("the panic was not said")
			}
		})
	}
}
