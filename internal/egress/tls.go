package egress

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
)

// certificateText ends the texts about destinations that refuse a client without a certificate.
const certificateText = "asking for a client certificate; Kapsel has none to send"

// handshakeText explains, for people, why a TLS handshake failed.
func handshakeText(hand *handshakeError) string {
	err := hand.err
	var (
		invalid x509.CertificateInvalidError
		host    x509.HostnameError
		unknown x509.UnknownAuthorityError
		record  tls.RecordHeaderError
		op      *net.OpError
	)
	const cert = "the destination's certificate "
	switch {
	case errors.As(err, &host):
		return cert + "is for another name"
	case errors.As(err, &unknown):
		return cert + "is not signed by a known authority"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return cert + "has expired or is not yet valid"
	case errors.As(err, &invalid):
		return cert + "is not valid"
	case errors.As(err, &record):
		return "the destination does not speak TLS at this port"
	case hand.asked && isLost(err) && !(errors.As(err, &op) && op.Op == "local error"): // errors of our own side are handled above
		return "the destination ended the TLS handshake after " + certificateText
	case errors.As(err, &op) && op.Op == "remote error":
		text := "the TLS handshake failed: " + alertText(op)
		if strings.HasSuffix(text, "protocol version not supported") {
			text += " (TLS 1.2 or later is needed)"
		}
		return text
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "the connection was lost in the TLS handshake"
	}
	var certificate *tls.CertificateVerificationError
	if errors.As(err, &certificate) {
		return cert + "is not valid"
	}
	return "the TLS handshake failed: the destination offers nothing that is accepted (TLS 1.2 or later is needed)"
}

// alertText returns the text of a TLS alert, such as "handshake failure".
func alertText(op *net.OpError) string {
	return strings.TrimPrefix(op.Err.Error(), "tls: ")
}
