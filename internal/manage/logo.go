package manage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"image/jpeg"
	"image/png"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// PortalLogo returns the logo of a tenant that the caller may see. NotFound: it has none.
func (m *Manager) PortalLogo(ctx context.Context, c access.Caller, tenant kapsel.TenantID) (kapsel.PortalLogo, error) {
	if err := ofTenant(c, access.Read, tenant); err != nil {
		return kapsel.PortalLogo{}, err
	}
	return m.Store.PortalLogo(ctx, tenant)
}

// SetPortalLogo stores the logo of a tenant. What kind of image it is, its bytes say.
func (m *Manager) SetPortalLogo(ctx context.Context, c access.Caller, tenant kapsel.TenantID, image []byte, alt string) (kapsel.PortalLogo, error) {
	if err := ofTenant(c, access.Write, tenant); err != nil {
		return kapsel.PortalLogo{}, err
	}
	l := kapsel.PortalLogo{TenantID: tenant, Image: image, Size: len(image), Hash: sha256.Sum256(image), Alt: alt, UpdatedAt: m.Clock()}
	wrong := l.Validate()
	kind, width, height := imageOf(image)
	switch {
	case len(image) == 0:
		wrong = append(wrong, kapsel.FieldError{Field: "image_base64", Detail: "is needed: a PNG, JPEG or WebP image"})
	case len(image) > kapsel.MaxPortalLogo:
		wrong = append(wrong, kapsel.FieldError{Field: "image_base64", Detail: "must be at most 64 KiB"})
	case kind == "":
		wrong = append(wrong, kapsel.FieldError{Field: "image_base64", Detail: "must be a PNG, JPEG or WebP image; its content is of none of these (SVG is not taken)"})
	case width < 1 || height < 1 || width > kapsel.MaxPortalLogoSide || height > kapsel.MaxPortalLogoSide:
		wrong = append(wrong, kapsel.FieldError{Field: "image_base64", Detail: "must be at most 2000 pixels wide and high"})
	}
	if err := check(wrong); err != nil {
		return kapsel.PortalLogo{}, err
	}
	l.Type = kind
	return l, m.by(c, "update").SetPortalLogo(ctx, l)
}

// DeletePortalLogo deletes the logo of a tenant. NotFound: it has none.
func (m *Manager) DeletePortalLogo(ctx context.Context, c access.Caller, tenant kapsel.TenantID) error {
	if err := ofTenant(c, access.Write, tenant); err != nil {
		return err
	}
	return m.by(c, "delete").DeletePortalLogo(ctx, tenant)
}

// ofTenant returns nil if the caller has a right and may see a tenant.
func ofTenant(c access.Caller, need access.Right, tenant kapsel.TenantID) error {
	if err := c.Check(need); err != nil {
		return err
	}
	if tenant.IsZero() || c.TenantOr(tenant) != tenant {
		return store.NotFound("tenant")
	}
	return nil
}

// Logo returns the logo of the tenant whose portal it is, without the image. NotFound: it has none.
func (p Portal) Logo(ctx context.Context) (kapsel.PortalLogo, error) {
	if err := p.c.Check(access.Read); err != nil {
		return kapsel.PortalLogo{}, err
	}
	return p.m.Store.PortalLogoHead(ctx, p.link.TenantID)
}

// LogoImage returns what Logo does, with the image.
func (p Portal) LogoImage(ctx context.Context) (kapsel.PortalLogo, error) {
	return p.m.PortalLogo(ctx, p.c, p.link.TenantID)
}

// imageOf returns what kind of image bytes are, "" for none that may be a logo, and its size in pixels, zero
// where its head is broken. Only the head is read.
func imageOf(b []byte) (kind string, width, height int) {
	switch {
	case bytes.HasPrefix(b, []byte("\x89PNG\r\n\x1a\n")):
		if c, err := png.DecodeConfig(bytes.NewReader(b)); err == nil {
			width, height = c.Width, c.Height
		}
		return "image/png", width, height
	case bytes.HasPrefix(b, []byte("\xff\xd8\xff")):
		if c, err := jpeg.DecodeConfig(bytes.NewReader(b)); err == nil {
			width, height = c.Width, c.Height
		}
		return "image/jpeg", width, height
	case len(b) >= 30 && string(b[:4]) == "RIFF" && string(b[8:12]) == "WEBP":
		width, height = webpSize(b)
		return "image/webp", width, height
	}
	return "", 0, 0
}

// webpSize returns the size in pixels that the first chunk of a WebP file says (RFC 9649, 2.5 to 2.7), zero
// if that is none of the three that begin one. b has 30 bytes or more.
func webpSize(b []byte) (width, height int) {
	switch string(b[12:16]) {
	case "VP8 ": // lossy: a key frame, RFC 6386, 9.1
		if b[20]&1 == 0 && string(b[23:26]) == "\x9d\x01\x2a" {
			return int(binary.LittleEndian.Uint16(b[26:]) & 0x3fff), int(binary.LittleEndian.Uint16(b[28:]) & 0x3fff)
		}
	case "VP8L": // lossless
		if b[20] == 0x2f {
			bits := binary.LittleEndian.Uint32(b[21:])
			return int(bits&0x3fff) + 1, int(bits>>14&0x3fff) + 1
		}
	case "VP8X": // extended
		return int(uint32(b[24])|uint32(b[25])<<8|uint32(b[26])<<16) + 1, int(uint32(b[27])|uint32(b[28])<<8|uint32(b[29])<<16) + 1
	}
	return 0, 0
}
