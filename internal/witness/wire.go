package witness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel/receipt"
)

// Limits of what comes from outside.
const (
	maxProof   = 63       // hashes of a consistency proof; C2SP tlog-witness
	maxText    = 64 << 10 // bytes of a request, of a checkpoint and of any answer
	exchange   = 10 * time.Second
	sizeType   = "text/x.tlog.size"
	addPath    = "/add-checkpoint"
	shownError = 300 // bytes of an answer that an error quotes
)

// Request is what a log sends to a witness: a checkpoint, and the proof that the log only grew since it had
// Old leaves.
type Request struct {
	Old        int64
	Proof      []receipt.Hash
	Checkpoint string // signed by the log
}

// Text returns the body of the request.
func (r *Request) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "old %d\n", r.Old)
	for _, h := range r.Proof {
		b.WriteString(h.String() + "\n")
	}
	return b.String() + "\n" + r.Checkpoint
}

// ParseRequest accepts exactly what Text returns. The checkpoint is not looked at.
func ParseRequest(text string) (r Request, err error) {
	head, checkpoint, ok := strings.Cut(text, "\n\n")
	lines := strings.Split(head, "\n")
	number, isOld := strings.CutPrefix(lines[0], "old ")
	switch {
	case !ok:
		return r, errors.New("the body has no empty line before the checkpoint")
	case !isOld:
		return r, errors.New("the first line is not old and a size")
	case len(lines)-1 > maxProof:
		return r, fmt.Errorf("the consistency proof has more than %d lines", maxProof)
	}
	size, err := strconv.ParseUint(number, 10, 63)
	if err != nil || strconv.FormatUint(size, 10) != number {
		return r, errors.New("the old size is not a decimal number without leading zeros")
	}
	r = Request{Old: int64(size), Checkpoint: checkpoint}
	for _, line := range lines[1:] {
		var h receipt.Hash
		if err := h.UnmarshalText([]byte(line)); err != nil {
			return r, fmt.Errorf("a line of the consistency proof is no hash: %w", err)
		}
		r.Proof = append(r.Proof, h)
	}
	return r, nil
}

// Client asks a witness to cosign checkpoints.
type Client struct {
	// Do sends a request; see egress.NewClient.
	Do  func(*http.Request) (*http.Response, error)
	URL string      // the submission prefix of C2SP tlog-witness, without a slash at the end
	Key receipt.Key // the witness's
}

// Answered is the error of Add for an answer other than a cosignature.
type Answered struct {
	Status int
	Size   int64  // with 409: how many leaves the witness remembers of the log
	Text   string // for people
}

func (a *Answered) Error() string { return a.Text }

// Add asks for a cosignature of a checkpoint that one of logKeys has signed. It returns the signature line,
// which it has verified. An *Answered error says what else the witness has answered; any other error that
// there was no answer.
func (c *Client) Add(ctx context.Context, r Request, logKeys ...receipt.Key) (line string, err error) {
	ctx, cancel := context.WithTimeout(ctx, exchange)
	defer cancel()
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL+addPath, strings.NewReader(r.Text()))
	if err != nil {
		return "", err
	}
	status, header, body, err := fetch(c.Do, post)
	if err != nil {
		return "", err
	}
	switch status {
	case http.StatusOK:
		return c.verified(body, &r, logKeys)
	case http.StatusConflict:
		size, err := strconv.ParseUint(strings.TrimSuffix(body, "\n"), 10, 63)
		if err != nil || !strings.HasPrefix(header.Get("Content-Type"), sizeType) {
			return "", &Answered{Status: 0, Text: "it answered 409 without the size that it remembers"}
		}
		return "", &Answered{Status: status, Size: int64(size), Text: fmt.Sprintf("it answered 409: it remembers %d leaves", size)}
	}
	return "", &Answered{Status: status, Text: fmt.Sprintf("it answered %d: %s", status, quoted(body))}
}

// verified returns the line of an answer that is a cosignature by the witness's key.
func (c *Client) verified(body string, r *Request, logKeys []receipt.Key) (string, error) {
	for line := range strings.Lines(body) {
		if !strings.HasPrefix(line, "— "+c.Key.Name+" ") {
			continue
		}
		s, err := receipt.OpenCheckpoint(r.Checkpoint+line, append(logKeys, c.Key)...)
		if err == nil && s.Cosigned(c.Key) {
			return line, nil
		}
	}
	return "", &Answered{Text: "it answered 200 without a signature that its key has made of this head"}
}

// fetch sends a request and reads the answer, at most maxText bytes of it.
func fetch(do func(*http.Request) (*http.Response, error), r *http.Request) (status int, header http.Header, body string, err error) {
	resp, err := do(r)
	if err != nil {
		return 0, nil, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxText+1))
	switch {
	case err != nil:
		return 0, nil, "", fmt.Errorf("the answer was cut: %w", err)
	case len(b) > maxText:
		return 0, nil, "", fmt.Errorf("the answer has more than %d bytes", maxText)
	}
	return resp.StatusCode, resp.Header, string(b), nil
}

// quoted returns the beginning of a text of others on one line.
func quoted(text string) string {
	text = strings.TrimSpace(text)
	if len(text) > shownError {
		text = text[:shownError] + "…"
	}
	return strconv.Quote(text)
}
