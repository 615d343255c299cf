package kapsel

import (
	"strings"
	"time"
	"unicode/utf8"
)

// PortalLogo is the picture at the head of a tenant's portal.
type PortalLogo struct {
	TenantID  TenantID
	Type      string   // the media type of Image: image/png, image/jpeg or image/webp
	Image     []byte   // nil where it was not read
	Size      int      // of the image, in bytes
	Hash      [32]byte // SHA-256 of the image
	Alt       string   // what the logo says to people who do not see it
	UpdatedAt time.Time
}

// Bounds of a logo. An image of few bytes may have many pixels, for which a browser needs memory.
const (
	MaxPortalLogo     = 64 << 10 // bytes
	MaxPortalLogoSide = 2000     // pixels
	maxPortalLogoAlt  = 200      // characters
)

// Validate checks what people set on a logo but for its image, and returns all wrong fields; nil if none is
// wrong.
func (l *PortalLogo) Validate() []FieldError {
	var f fields
	switch n := utf8.RuneCountInString(l.Alt); {
	case strings.TrimSpace(l.Alt) == "":
		f.add("alt", "is needed: what the logo says to people who do not see it, such as your name")
	case n > maxPortalLogoAlt:
		f.add("alt", "must have at most %d characters", maxPortalLogoAlt)
	case !IsText(l.Alt):
		f.add("alt", "must be UTF-8 without NUL")
	}
	return f
}
