package main

import (
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel/internal/dashboard"
	"github.com/kapsel-hq/kapsel/internal/egress"
	"github.com/kapsel-hq/kapsel/internal/oidc"
)

// checkSignOn parses the settings of the single sign-on.
func (s *serveSettings) checkSignOn() (err error) {
	if s.OIDCIssuer == "" {
		for _, other := range []struct{ name, value string }{
			{"KAPSEL_OIDC_CLIENT_ID (--oidc-client-id)", s.OIDCClientID},
			{"KAPSEL_OIDC_CLIENT_SECRET (--oidc-client-secret)", s.OIDCClientSecret.Reveal()},
			{"KAPSEL_OIDC_NAME (--oidc-name)", s.OIDCName},
			{"KAPSEL_OIDC_ADMIN (--oidc-admin)", s.OIDCAdmin},
			{"KAPSEL_OIDC_TENANT (--oidc-tenant)", s.OIDCTenant},
			{"KAPSEL_OIDC_WRITE (--oidc-write)", s.OIDCWrite},
		} {
			if other.value != "" {
				return settingError("%s: is of no use without a provider, KAPSEL_OIDC_ISSUER", other.name)
			}
		}
		return nil
	}
	if err := oidc.CheckURL(s.OIDCIssuer); err != nil || strings.ContainsAny(s.OIDCIssuer, "?# ") {
		return settingError("KAPSEL_OIDC_ISSUER (--oidc-issuer): must be the issuer as the provider names itself, such as https://login.example.com; http:// is for a provider on this machine alone")
	}
	if s.OIDCClientID == "" {
		return settingError("KAPSEL_OIDC_CLIENT_ID (--oidc-client-id): must be given with KAPSEL_OIDC_ISSUER")
	}
	if strings.ContainsFunc(s.OIDCClientID, func(r rune) bool { return r < 0x21 || r > 0x7e }) || len(s.OIDCClientID) > 255 {
		return settingError("KAPSEL_OIDC_CLIENT_ID (--oidc-client-id): must be at most 255 printable characters without spaces")
	}
	if s.OIDCName = oidc.Printable(s.OIDCName, 60); s.OIDCName == "" {
		u, _ := url.Parse(s.OIDCIssuer)
		s.OIDCName = u.Host
	}
	s.signOn = &oidc.Config{Issuer: s.OIDCIssuer, ClientID: s.OIDCClientID, Secret: s.OIDCClientSecret, Scopes: strings.Fields(s.OIDCScopes), Name: s.OIDCName}
	if !slices.Contains(s.signOn.Scopes, "openid") {
		return settingError("KAPSEL_OIDC_SCOPES (--oidc-scopes): %.100q must have openid among words with spaces between", s.OIDCScopes)
	}
	rules := &s.signOn.Rules
	if rules.Admin, err = oidc.ParseMatches(s.OIDCAdmin); err != nil {
		return settingError("KAPSEL_OIDC_ADMIN (--oidc-admin): %v", err)
	}
	if rules.Tenant, err = oidc.ParseTenantRules(s.OIDCTenant); err != nil {
		return settingError("KAPSEL_OIDC_TENANT (--oidc-tenant): %v", err)
	}
	if rules.Write, err = oidc.ParseMatches(s.OIDCWrite); err != nil {
		return settingError("KAPSEL_OIDC_WRITE (--oidc-write): %v", err)
	}
	if len(rules.Admin)+len(rules.Tenant) == 0 {
		return settingError("KAPSEL_OIDC_ADMIN (--oidc-admin): without it and without KAPSEL_OIDC_TENANT nobody could sign in; say which claims make an admin, or name a tenant")
	}
	if len(rules.Write) > 0 && len(rules.Tenant) == 0 {
		return settingError("KAPSEL_OIDC_WRITE (--oidc-write): is of no use without KAPSEL_OIDC_TENANT; an admin may do everything")
	}
	return s.checkComeBack()
}

// checkComeBack checks that a browser can come back from the provider to where people may sign in: by HTTPS,
// or on this machine.
func (s *serveSettings) checkComeBack() error {
	public := s.PublicURL
	if public == "" && s.TLSCert == "" {
		public = "http://" + s.Listen
	}
	u, err := url.Parse(public)
	if err != nil || u.Scheme != "https" && !(u.Scheme == "http" && egress.IsLoopback(u.Hostname())) {
		return settingError("KAPSEL_OIDC_ISSUER (--oidc-issuer): needs KAPSEL_PUBLIC_URL, an https:// address to which the provider leads people back; http:// is for this machine alone")
	}
	return nil
}

// provider returns the provider of the single sign-on, nil if there is none.
func (s *serveSettings) provider(now func() time.Time, log *slog.Logger) *oidc.Provider {
	if s.signOn == nil {
		return nil
	}
	cfg := *s.signOn
	cfg.RedirectURL, cfg.Clock, cfg.Log = s.PublicURL+dashboard.CallbackPath, now, log
	cfg.Egress = egress.Config{AllowAllPrivate: true, Allow: s.allow} // the operator names the provider, not a tenant
	return oidc.New(cfg)
}
