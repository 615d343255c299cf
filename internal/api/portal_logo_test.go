package api

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/kapsel-hq/kapsel"
)

// tinyLogo is a PNG image of one pixel, in base64.
const tinyLogo = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="

// TestPortalLogo checks that a logo is set, read and deleted by the keys of its tenant, and what it cannot be.
func TestPortalLogo(t *testing.T) {
	w := newWorld(t)
	h, other := w.newHouse("acme"), w.newHouse("other")
	path := "/v1/tenants/" + h.tenant + "/portal-logo"
	w.refused(kapsel.NotFound, 404, nil, "GET", path, h.read, nil)
	w.refused(kapsel.NotFound, 404, nil, "DELETE", path, h.write, nil)
	set := w.want(200, "PUT", path, h.write, `{"image_base64":"`+tinyLogo+`","alt":"Acme"}`)
	if set["content_type"] != "image/png" || set["alt"] != "Acme" || len(set.text("sha256")) != 64 || set.text("image_base64") != tinyLogo {
		t.Errorf("set: %v", set)
	}
	if got := w.want(200, "GET", path, h.read, nil); got.text("sha256") != set.text("sha256") || got.text("image_base64") != tinyLogo {
		t.Errorf("read: %v", got)
	}
	w.refused(kapsel.NotFound, 404, nil, "GET", path, other.read, nil)
	w.refused(kapsel.NotFound, 404, nil, "PUT", path, other.write, `{"image_base64":"`+tinyLogo+`","alt":"x"}`)

	coded := func(bytes string) string { return base64.StdEncoding.EncodeToString([]byte(bytes)) }
	extended := func(width, height int) string {
		return "RIFF\x1e\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x00\x00\x00\x00" +
			string([]byte{byte(width - 1), byte((width - 1) >> 8), 0, byte(height - 1), byte((height - 1) >> 8), 0})
	}
	lossy := "RIFF\x16\x00\x00\x00WEBPVP8 \x0a\x00\x00\x00\x10\x00\x00\x9d\x01\x2a\x40\x00\x20\x00"
	lossless := "RIFF\x16\x00\x00\x00WEBPVP8L\x0a\x00\x00\x00\x2f\x3f\xc0\x07\x00\x00\x00\x00\x00\x00"
	for name, image := range map[string]string{"lossy": lossy, "lossless": lossless, "extended": extended(2000, 2000)} {
		if set := w.want(200, "PUT", "/v1/tenants/"+h.tenant+"/portal-logo", adminKey, `{"image_base64":"`+coded(image)+`","alt":"Acme"}`); set["content_type"] != "image/webp" {
			t.Errorf("%s: %v", name, set)
		}
	}
	tiny, _ := base64.StdEncoding.DecodeString(tinyLogo)
	for body, field := range map[string]string{
		`{"alt":"Acme"}`:                      "image_base64",
		`{"image_base64":"` + tinyLogo + `"}`: "alt",
		`{"image_base64":"` + tinyLogo + `","alt":"` + strings.Repeat("x", 201) + `"}`:                             "alt",
		`{"image_base64":"not base64!","alt":"Acme"}`:                                                              "image_base64",
		`{"image_base64":"` + coded(`<svg xmlns="http://www.w3.org/2000/svg"/>`) + `","alt":"Acme"}`:               "image_base64",
		`{"image_base64":"` + coded("GIF89a\x01\x00\x01\x00") + `","alt":"Acme"}`:                                  "image_base64",
		`{"image_base64":"` + coded(string(tiny[:20])) + `","alt":"Acme"}`:                                         "image_base64",
		`{"image_base64":"` + coded(string(tiny)+strings.Repeat("x", kapsel.MaxPortalLogo)) + `","alt":"Acme"}`:    "image_base64",
		`{"image_base64":"` + coded(extended(2001, 1)) + `","alt":"Acme"}`:                                         "image_base64",
		`{"image_base64":"` + coded(strings.Replace(lossy, "\x9d\x01\x2a", "\x00\x00\x00", 1)) + `","alt":"Acme"}`: "image_base64",
		`{"image_base64":"` + coded("\xff\xd8\xff\xe0<html>") + `","alt":"Acme"}`:                                  "image_base64",
	} {
		w.refused(kapsel.InvalidRequest, 422, []string{field}, "PUT", path, h.write, body)
	}
	w.want(204, "DELETE", path, h.write, nil)
	w.refused(kapsel.NotFound, 404, nil, "GET", path, h.read, nil)
}
