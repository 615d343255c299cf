package api

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"net/http"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
)

func (a *api) portalLogos() {
	op := tagged("Portal")
	const path = "/v1/tenants/{id}/portal-logo"
	add(a, access.Read, op("get-portal-logo", http.MethodGet, path, "Get the logo of a tenant's portal"), got(a.Manage.PortalLogo, (*TenantPath).ref, viewPortalLogo))
	add(a, access.Write, takes[PortalLogoInput](op("put-portal-logo", http.MethodPut, path, "Set the logo of a tenant's portal")), a.putPortalLogo)
	add(a, access.Write, op("delete-portal-logo", http.MethodDelete, path, "Delete the logo of a tenant's portal"), removed(a.Manage.DeletePortalLogo, (*TenantPath).ref))
}

func (a *api) putPortalLogo(ctx context.Context, in *TenantPath) (*out[PortalLogo], error) {
	var body PortalLogoInput
	if err := readUpTo(ctx, 2*kapsel.MaxPortalLogo, &body); err != nil {
		return nil, err
	}
	image, err := base64.StdEncoding.DecodeString(body.Image)
	if err != nil {
		return nil, kapsel.Invalid(http.StatusUnprocessableEntity, kapsel.FieldError{Field: "image_base64", Detail: "must be standard base64 with padding"})
	}
	l, err := a.Manage.SetPortalLogo(ctx, callerOf(ctx), in.ID, image, body.Alt)
	return shownAs(viewPortalLogo, l, err)
}

// PortalLogoInput is what people set on a portal's logo.
type PortalLogoInput struct {
	Image string `json:"image_base64" example:"iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==" doc:"A PNG, JPEG or WebP image of at most 64 KiB and 2000 pixels a side, in base64; its content counts, and SVG is not taken"`
	Alt   string `json:"alt" example:"Acme Inc." minLength:"1" maxLength:"200" doc:"What the logo says to people who do not see it, such as your name"`
}

// PortalLogo is a portal's logo as the API shows it.
type PortalLogo struct {
	PortalLogoHead
	Image string `json:"image_base64" example:"iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==" doc:"The image, in base64"`
}

// PortalLogoHead is a portal's logo without its image.
type PortalLogoHead struct {
	TenantID    kapsel.TenantID `json:"tenant_id"`
	ContentType string          `json:"content_type" enum:"image/png,image/jpeg,image/webp" doc:"What the image's content says that it is"`
	Size        int             `json:"size" doc:"Of the image, in bytes"`
	SHA256      string          `json:"sha256" example:"6b7fa434f92a8b80aab02d9bf1a12e49ffcae424e4013a1c4f68b67e3d2bbcd0" doc:"Of the image, in hexadecimal"`
	Alt         string          `json:"alt" example:"Acme Inc." doc:"What the logo says to people who do not see it"`
	UpdatedAt   timestamp       `json:"updated_at"`
}

func viewPortalLogoHead(l *kapsel.PortalLogo) PortalLogoHead {
	return PortalLogoHead{l.TenantID, l.Type, l.Size, hex.EncodeToString(l.Hash[:]), l.Alt, timestamp(l.UpdatedAt)}
}

func viewPortalLogo(l *kapsel.PortalLogo) PortalLogo {
	return PortalLogo{viewPortalLogoHead(l), base64.StdEncoding.EncodeToString(l.Image)}
}
