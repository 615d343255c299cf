// Package mail sends plain e-mails to the operator through an SMTP server. Over the network it speaks TLS
// only: STARTTLS (RFC 3207), or TLS from the first byte (RFC 8314), with a certificate that verifies.
package mail

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"mime"
	"mime/quotedprintable"
	"net"
	netmail "net/mail"
	"net/smtp"
	"net/textproto"
	"net/url"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel/internal/egress"
)

// sendTimeout bounds sending one e-mail.
const sendTimeout = 30 * time.Second

// Sender sends e-mails. It is safe for concurrent use.
type Sender struct {
	Dial func(ctx context.Context, address string) (net.Conn, error)
	From string   // an address
	To   []string // addresses
	TLS  *tls.Config
	Log  *slog.Logger

	server Server
}

// Server is an SMTP server as a URL names it.
type Server struct {
	Host, Port     string
	User, Password string // "": it wants none
	Implicit       bool   // TLS from the first byte
	Plain          bool   // on this machine: no TLS
}

// ParseServer reads a URL such as smtp://user:password@mail.example.com:587, or smtps:// for TLS from the
// first byte. Its errors do not have the password.
func ParseServer(text string) (s Server, err error) {
	u, err := url.Parse(text)
	if err != nil {
		return s, errors.New("is not a URL such as smtp://user:password@mail.example.com:587")
	}
	port := map[string]string{"smtp": "587", "smtps": "465"}[u.Scheme]
	if port == "" || u.Hostname() == "" || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
		return s, errors.New("must be smtp:// or smtps://, a user and a password where the server wants them, and a host")
	}
	s = Server{Host: u.Hostname(), Port: port, Implicit: u.Scheme == "smtps"}
	if u.Port() != "" {
		s.Port = u.Port()
	}
	s.User = u.User.Username()
	s.Password, _ = u.User.Password()
	s.Plain = !s.Implicit && egress.IsLoopback(s.Host)
	return s, nil
}

// ParseAddresses reads a comma list of e-mail addresses.
func ParseAddresses(list string) (all []string, err error) {
	parsed, err := netmail.ParseAddressList(list)
	if err != nil {
		return nil, errors.New("must be e-mail addresses, such as ops@example.com, with commas between them")
	}
	for _, a := range parsed {
		all = append(all, a.Address)
	}
	return all, nil
}

// New returns a sender through a server. It logs the recipients that the server refuses.
func New(server Server, from string, to []string, dial func(context.Context, string) (net.Conn, error), log *slog.Logger) *Sender {
	return &Sender{Dial: dial, From: from, To: to, Log: log, server: server}
}

// ErrLetter says that the server refuses an e-mail for good because of the e-mail itself. Another may pass.
var ErrLetter = errors.New("it does not take the e-mail")

// Send sends an e-mail to some of s.To; to nobody means all of them. When err is nil, the server has taken the
// e-mail for all but those that it refuses for good, which are logged, and later, to whom the same e-mail
// may be sent again. An error says nothing of whether the server has the e-mail.
func (s *Sender) Send(ctx context.Context, to []string, subject, text string) (later []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	conn, err := s.Dial(ctx, net.JoinHostPort(s.server.Host, s.server.Port))
	if err != nil {
		return nil, fmt.Errorf("connect to the mail server %s: %w", s.server.Host, err)
	}
	defer conn.Close()
	// The end of ctx ends what waits for the server, whose silence must not hold up the end of the program.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: s.server.Host}
	if s.TLS != nil {
		config.RootCAs = s.TLS.RootCAs
	}
	talked := conn
	if s.server.Implicit {
		talked = tls.Client(conn, config)
	}
	if len(to) == 0 {
		to = s.To
	}
	if later, err = s.talk(talked, config, to, message(s.From, to, subject, text, time.Now())); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err() // rather than the deadline that it set
		}
		return nil, fmt.Errorf("mail server %s: %w", s.server.Host, err)
	}
	return later, nil
}

// talk hands an e-mail to the server, and returns to whom it may be sent later.
func (s *Sender) talk(conn net.Conn, config *tls.Config, to []string, letter []byte) (later []string, err error) {
	c, err := smtp.NewClient(conn, s.server.Host)
	if err != nil {
		return nil, err
	}
	if err := s.secure(c, config); err != nil {
		return nil, err
	}
	if err := s.signIn(c); err != nil {
		return nil, err
	}
	if err := c.Mail(s.From); err != nil {
		return nil, fmt.Errorf("sender %s: %w", s.From, err)
	}
	taken, last := 0, error(nil)
	for _, one := range to {
		err := c.Rcpt(one)
		var answer *textproto.Error
		switch {
		case err == nil:
			taken++
			continue
		case !errors.As(err, &answer):
			return nil, fmt.Errorf("recipient %s: %w", one, err)
		case answer.Code < 500:
			later = append(later, one)
		default:
			s.Log.Error("the mail server refuses a recipient of notices, who gets none; mend KAPSEL_NOTICES_MAIL", "recipient", one, "error", err)
		}
		last = fmt.Errorf("recipient %s: %w", one, err)
	}
	switch {
	case taken > 0:
	case len(later) == 0 && len(to) < len(s.To):
		return nil, nil // the others have it, and these never will
	default:
		return nil, last
	}
	if err := data(c, letter); err != nil {
		return nil, err
	}
	_ = c.Quit() // it has the e-mail
	return later, nil
}

// data sends an e-mail to the recipients that the server has taken. ErrLetter: it does not want this one.
func data(c *smtp.Client, letter []byte) error {
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write(letter); err != nil {
		return err
	}
	err = w.Close()
	if answer := (*textproto.Error)(nil); errors.As(err, &answer) && answer.Code >= 500 {
		err = fmt.Errorf("%w: %w", ErrLetter, err)
	}
	return err
}

// secure makes the connection one of TLS where it has to be: over the network always, and on this machine
// where the server lets nobody sign in before.
func (s *Sender) secure(c *smtp.Client, config *tls.Config) error {
	if s.server.Implicit {
		return nil
	}
	offered, _ := c.Extension("STARTTLS")
	signIn, _ := c.Extension("AUTH")
	switch {
	case s.server.Plain && (!offered || s.server.User == "" || signIn):
		return nil
	case !offered:
		return errors.New("it does not offer STARTTLS, without which nothing is sent over the network; use another port, or smtps://")
	}
	if err := c.StartTLS(config); err != nil {
		return fmt.Errorf("STARTTLS: %w", err)
	}
	return nil
}

// signIn signs in with the user and the password of the server's URL, if it has a user. No error has the
// password, whatever the server answers.
func (s *Sender) signIn(c *smtp.Client) error {
	if s.server.User == "" {
		return nil
	}
	if offered, _ := c.Extension("AUTH"); !offered {
		return errors.New("nobody can sign in there (it does not offer AUTH); take the user and the password out of its URL, or use another port")
	}
	err := c.Auth(smtp.PlainAuth("", s.server.User, s.server.Password, s.server.Host))
	var said *textproto.Error
	if !errors.As(err, &said) {
		return err // nil, or an error of this side
	}
	hide := []string{base64.StdEncoding.EncodeToString([]byte("\x00" + s.server.User + "\x00" + s.server.Password)), "…"}
	if s.server.Password != "" {
		hide = append(hide, s.server.Password, "…")
	}
	text := strings.NewReplacer(hide...).Replace(said.Msg)
	if said.Code == 535 { // RFC 4954: the credentials are wrong
		return fmt.Errorf("it refuses the user or the password of its URL: %d %s", said.Code, text)
	}
	return fmt.Errorf("sign in: %d %s", said.Code, text)
}

// message returns an e-mail as it is sent (RFC 5322).
func message(from string, to []string, subject, text string, now time.Time) []byte {
	subject = strings.NewReplacer("\r", " ", "\n", " ").Replace(subject)
	var b strings.Builder
	fold(&b, "From:", []string{from})
	fold(&b, "To:", strings.Split(strings.Join(to, ", "), " "))
	fold(&b, "Subject:", strings.Split(mime.QEncoding.Encode("utf-8", subject), " "))
	fold(&b, "Date:", []string{now.Format(time.RFC1123Z)})
	// Mail servers of recipients may refuse an e-mail without an id, and the operator's need not add one.
	fold(&b, "Message-ID:", []string{"<" + rand.Text() + from[strings.LastIndex(from, "@"):] + ">"})
	b.WriteString("Auto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n")
	body := quotedprintable.NewWriter(&b)
	_, _ = body.Write([]byte(strings.ReplaceAll(text, "\n", "\r\n"))) // a strings.Builder takes everything
	_ = body.Close()
	return []byte(b.String())
}

// lineLength is how long a line with an encoded word may be (RFC 2047, 2). Servers refuse those above 998
// (RFC 5322, 2.1.1).
const lineLength = 76

// fold writes a field of a header: words with spaces between them, or the beginning of a new line where a
// word would make the line too long.
func fold(b *strings.Builder, field string, words []string) {
	b.WriteString(field)
	length := len(field)
	for _, word := range words {
		if word != "" && length+1+len(word) > lineLength {
			b.WriteString("\r\n")
			length = 0
		}
		b.WriteString(" " + word)
		length += 1 + len(word)
	}
	b.WriteString("\r\n")
}
