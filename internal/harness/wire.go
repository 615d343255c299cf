package harness

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http/httputil"
	"strconv"
)

// message is the head of an HTTP/1.1 request or response. Parsing does only the work that framing
// needs, because the generator and the sink share the machine with the gateway that they measure.
type message struct {
	line    []byte // first line, without its line ending
	length  int64  // Content-Length; 0 if there is none
	chunked bool
	close   bool        // "Connection: close"
	header  [][2]string // in order; only if readHead is called with withHeader
}

// errHead says that a head is not HTTP/1.1 as this package supports it.
var errHead = errors.New("malformed HTTP head")

// readHead reads a head into m. A line must not be longer than r's buffer.
func (m *message) readHead(r *bufio.Reader, withHeader bool) error {
	line, err := readLine(r)
	if err != nil {
		return err // io.EOF: the peer has finished
	}
	*m = message{line: append(m.line[:0], line...)}
	for {
		line, err := readLine(r)
		if err != nil {
			return noEOF(err)
		}
		if len(line) == 0 {
			return nil
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			return errHead
		}
		value = bytes.TrimSpace(value)
		switch {
		case is(name, "content-length"):
			if m.length, err = strconv.ParseInt(string(value), 10, 64); err != nil || m.length < 0 {
				return errHead
			}
		case is(name, "transfer-encoding"):
			m.chunked = is(value, "chunked")
		case is(name, "connection"):
			m.close = is(value, "close")
		}
		if withHeader {
			m.header = append(m.header, [2]string{string(name), string(value)})
		}
	}
}

// body returns a reader of the body. Callers must read it to its end and then call finish.
func (m *message) body(r *bufio.Reader) io.Reader {
	if m.chunked {
		return httputil.NewChunkedReader(r)
	}
	return io.LimitReader(r, m.length)
}

// finish reads the trailer of a chunked body.
func (m *message) finish(r *bufio.Reader) error {
	for m.chunked {
		line, err := readLine(r)
		if err != nil {
			return noEOF(err)
		}
		if len(line) == 0 {
			break
		}
	}
	return nil
}

// discardBody skips the body.
func (m *message) discardBody(r *bufio.Reader) error {
	if !m.chunked {
		_, err := r.Discard(int(m.length))
		return noEOF(err)
	}
	if _, err := io.Copy(io.Discard, m.body(r)); err != nil {
		return err
	}
	return m.finish(r)
}

// status returns the status code of a response.
func (m *message) status() (int, error) {
	if len(m.line) < len("HTTP/1.1 200") || !bytes.HasPrefix(m.line, []byte("HTTP/1.")) {
		return 0, errHead
	}
	code, err := strconv.Atoi(string(m.line[9:12]))
	if err != nil || code < 100 || code > 999 {
		return 0, fmt.Errorf("%w: status %q", errHead, m.line[9:12])
	}
	return code, nil
}

// readLine returns a line without its line ending. The bytes are valid until the next read.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		if len(line) > 0 {
			err = noEOF(err)
		}
		return nil, err
	}
	return bytes.TrimSuffix(line[:len(line)-1], []byte("\r")), nil
}

// is reports whether a header's name or value equals a lower-case word, ignoring case.
func is(b []byte, word string) bool {
	return len(b) == len(word) && bytes.EqualFold(b, []byte(word))
}

// noEOF turns io.EOF into io.ErrUnexpectedEOF, for an end in the middle of a message.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
