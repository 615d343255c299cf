// Package mail sends plain e-mails to the operator through an SMTP server. Over the network it speaks TLS
// only: STARTTLS (RFC 3207), or TLS from the first byte (RFC 8314), with a certificate that verifies.
package mail

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
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

// New returns a sender through a server.
func New(server Server, from string, to []string, dial func(context.Context, string) (net.Conn, error)) *Sender {
	return &Sender{Dial: dial, From: from, To: to, server: server}
}

// Send sends an e-mail. When it returns nil, the server has taken the e-mail. An error says nothing of
// whether it has.
func (s *Sender) Send(ctx context.Context, subject, text string) error {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	conn, err := s.Dial(ctx, net.JoinHostPort(s.server.Host, s.server.Port))
	if err != nil {
		return fmt.Errorf("connect to the mail server %s: %w", s.server.Host, err)
	}
	defer conn.Close()
	end, _ := ctx.Deadline()
	if err := conn.SetDeadline(end); err != nil {
		return fmt.Errorf("set the time limit: %w", err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: s.server.Host}
	if s.TLS != nil {
		config.RootCAs = s.TLS.RootCAs
	}
	if s.server.Implicit {
		conn = tls.Client(conn, config)
	}
	if err := s.talk(conn, config, message(s.From, s.To, subject, text, time.Now())); err != nil {
		return fmt.Errorf("mail server %s: %w", s.server.Host, err)
	}
	return nil
}

// talk hands an e-mail to the server.
func (s *Sender) talk(conn net.Conn, config *tls.Config, letter []byte) error {
	c, err := smtp.NewClient(conn, s.server.Host)
	if err != nil {
		return err
	}
	if err := s.secure(c, config); err != nil {
		return err
	}
	if err := s.signIn(c); err != nil {
		return err
	}
	if err := c.Mail(s.From); err != nil {
		return fmt.Errorf("sender %s: %w", s.From, err)
	}
	for _, to := range s.To {
		if err := c.Rcpt(to); err != nil {
			return fmt.Errorf("recipient %s: %w", to, err)
		}
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write(letter); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	_ = c.Quit() // it has the e-mail
	return nil
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
	fmt.Fprintf(&b, "From: %s\r\nTo: %s\r\nSubject: %s\r\nDate: %s\r\n", from, strings.Join(to, ", "), mime.QEncoding.Encode("utf-8", subject), now.Format(time.RFC1123Z))
	b.WriteString("Auto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n")
	body := quotedprintable.NewWriter(&b)
	_, _ = body.Write([]byte(strings.ReplaceAll(text, "\n", "\r\n"))) // a strings.Builder takes everything
	_ = body.Close()
	return []byte(b.String())
}
