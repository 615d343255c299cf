package mail

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"mime"
	"net"
	netmail "net/mail"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// scripted is a mail server that answers a command as answers say, by its beginning, and else takes it.
type scripted struct {
	addr    string
	answers map[string]string // "": it never answers

	mu      sync.Mutex
	waits   chan struct{} // closed when it has not answered
	letters []string
}

func newScripted(t *testing.T, answers map[string]string) *scripted {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &scripted{addr: ln.Addr().String(), answers: answers, waits: make(chan struct{})}
	var all sync.WaitGroup
	t.Cleanup(func() { ln.Close(); all.Wait() })
	all.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() { s.serve(conn) })
		}
	})
	return s
}

func (s *scripted) serve(conn net.Conn) {
	defer conn.Close()
	lines := bufio.NewScanner(conn)
	fmt.Fprint(conn, "220 test\r\n")
	for lines.Scan() {
		line, answer := lines.Text(), "250 yes"
		for begin, a := range s.answers {
			if strings.HasPrefix(line, begin) {
				answer = a
			}
		}
		if answer == "" {
			close(s.waits)
			lines.Scan() // until the client goes
			return
		}
		if line == "DATA" && answer == "250 yes" {
			fmt.Fprint(conn, "354 go on\r\n")
			var letter strings.Builder
			for lines.Scan() && lines.Text() != "." {
				letter.WriteString(lines.Text() + "\r\n")
			}
			if answer = "250 yes"; s.answers["."] != "" {
				answer = s.answers["."]
			} else {
				s.mu.Lock()
				s.letters = append(s.letters, letter.String())
				s.mu.Unlock()
			}
		}
		fmt.Fprint(conn, answer+"\r\n")
	}
}

// TestSend_Recipients checks that a recipient that the server refuses keeps no e-mail from the others: one
// that it refuses for good is logged, one that it refuses for now is returned. What it refuses after the
// e-mail's text is told apart.
func TestSend_Recipients(t *testing.T) {
	const gone, full = "RCPT TO:<gone@example.com>", "RCPT TO:<full@example.com>"
	to := []string{"ops@example.com", "gone@example.com", "full@example.com", "night@example.com"}
	for name, test := range map[string]struct {
		to      []string
		answers map[string]string
		later   []string
		letters int
		err     error
		fails   bool
	}{
		"two of four":           {nil, map[string]string{gone: "550 no such user", full: "452 mailbox full"}, []string{"full@example.com"}, 1, nil, false},
		"nobody for now":        {[]string{"full@example.com"}, map[string]string{full: "452 mailbox full"}, nil, 0, nil, true},
		"the last of them":      {[]string{"gone@example.com"}, map[string]string{gone: "550 no such user"}, nil, 0, nil, false},
		"nobody at all":         {nil, map[string]string{"RCPT": "550 no"}, nil, 0, nil, true},
		"the e-mail":            {nil, map[string]string{".": "552 too large"}, nil, 0, ErrLetter, true},
		"the e-mail, for now":   {nil, map[string]string{".": "451 busy"}, nil, 0, nil, true},
		"the sender's own name": {nil, map[string]string{"MAIL": "550 no"}, nil, 0, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			server := newScripted(t, test.answers)
			s := sender(t, server.addr, true)
			var log strings.Builder
			s.To, s.Log = to, slog.New(slog.NewTextHandler(&log, nil))
			later, err := s.Send(t.Context(), test.to, "a", "b")
			if (err != nil) != test.fails || errors.Is(err, ErrLetter) != (test.err != nil) || !slices.Equal(later, test.later) || len(server.letters) != test.letters {
				t.Errorf("error %v, later %q, %d e-mails", err, later, len(server.letters))
			}
			if _, refused := test.answers[gone]; refused && !strings.Contains(log.String(), "gone@example.com") {
				t.Errorf("the log does not name who was refused: %s", &log)
			}
		})
	}
}

// TestSend_Hangs checks that the end of the context ends what waits for a server that is silent, whatever
// it should answer.
func TestSend_Hangs(t *testing.T) {
	for _, command := range []string{"EHLO", "MAIL", "RCPT", "DATA"} {
		t.Run(command, func(t *testing.T) {
			server := newScripted(t, map[string]string{command: ""})
			ctx, cancel := context.WithCancel(t.Context())
			go func() { <-server.waits; cancel() }()
			_, err := sender(t, server.addr, true).Send(ctx, nil, "a", "b")
			if !errors.Is(err, context.Canceled) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// TestMessage_Lines checks that no name and no number of recipients makes a line of the header long, and
// that what is folded reads as it was meant.
func TestMessage_Lines(t *testing.T) {
	var to []string
	for i := range 200 {
		to = append(to, fmt.Sprintf("somebody-%d@example.com", i))
	}
	ids := map[string]bool{}
	for _, subject := range []string{strings.Repeat("漢", 200), strings.Repeat("word ", 300) + "end", "a  b" + strings.Repeat(" c", 100), "", "Kapsel: circuit open, orders"} {
		text := string(message("kapsel@example.com", to, subject, "x", time.Now()))
		for line := range strings.SplitSeq(text, "\r\n") {
			if len(line) > lineLength {
				t.Errorf("a line of %d bytes: %s", len(line), line)
			}
		}
		m, err := netmail.ReadMessage(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject")); err != nil || got != subject {
			t.Errorf("the subject %q is read as %q, error %v", subject, got, err)
		}
		id := m.Header.Get("Message-ID")
		if parsed, err := netmail.ParseAddress(id); err != nil || !strings.HasSuffix(parsed.Address, "@example.com") || ids[id] {
			t.Errorf("the id %q, error %v; want a new one of example.com", id, err)
		}
		ids[id] = true
		if got, err := m.Header.AddressList("To"); err != nil || len(got) != len(to) || got[199].Address != to[199] {
			t.Errorf("%d recipients are read, error %v", len(got), err)
		}
	}
}
