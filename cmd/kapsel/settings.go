package main

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/budget"
	"github.com/kapsel-hq/kapsel/internal/egress"
	"github.com/kapsel-hq/kapsel/internal/ingest"
	"github.com/kapsel-hq/kapsel/internal/mail"
	"github.com/kapsel-hq/kapsel/internal/oidc"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/telemetry"
	"github.com/kapsel-hq/kapsel/internal/witness"
)

// databaseSettings holds the settings of the commands that open the database themselves.
type databaseSettings struct {
	DatabaseURL string `name:"database-url" env:"DATABASE_URL" default:"sqlite:kapsel-data/kapsel.db" placeholder:"URL" help:"sqlite:PATH or postgres://… (${env}, default ${default})."`
	Migrate     string `name:"migrate" env:"KAPSEL_MIGRATE" default:"on" enum:"on,off" help:"off: refuse an old schema instead of changing it (${env}, default ${default})."`
	Durability  string `name:"database-durability" env:"KAPSEL_DATABASE_DURABILITY" default:"server" enum:"server,external" help:"external: a PostgreSQL server that runs without fsync or full_page_writes keeps its data all the same (${env}, default ${default})."`
	LogLevel    string `name:"log-level" env:"LOG_LEVEL" default:"info" enum:"debug,info,warn,error" help:"debug, info, warn or error (${env}, default ${default})."`
	LogFormat   string `name:"log-format" env:"LOG_FORMAT" default:"json" enum:"json,text" help:"json, or text for people (${env}, default ${default})."`

	ledger  string // on: the store tells facts; see store.Ledger
	caches  int64  // bytes for SQLite's page caches; 0: what it takes by itself
	maxBody int64  // bytes of the longest body; 0: the usual
	another bool   // a PostgreSQL database may have Kapsel's tables in another schema, too
	flag    string // what the user calls DatabaseURL, "" for its usual name
}

// urlName returns the name of the setting of the database's URL, for errors.
func (s *databaseSettings) urlName() string {
	if s.flag != "" {
		return s.flag
	}
	return "DATABASE_URL (--database-url)"
}

// serveSettings holds all settings of the service.
type serveSettings struct {
	databaseSettings `embed:""`

	Listen           string        `env:"KAPSEL_LISTEN" default:"127.0.0.1:8080" help:"Address of ingest and API (${env}, default ${default})."`
	PublicURL        string        `name:"public-url" env:"KAPSEL_PUBLIC_URL" help:"Base of ingest URLs and of what providers sign (${env}, default http:// and the listen address)."`
	MetricsListen    string        `env:"KAPSEL_METRICS_LISTEN" default:"127.0.0.1:9464" help:"Address of /metrics and /debug/pprof; empty turns it off (${env}, default ${default})."`
	TLSCert          string        `name:"tls-cert" env:"KAPSEL_TLS_CERT" placeholder:"FILE" help:"Certificate chain (PEM) to serve HTTPS with; read again when it changes (${env}, default plain HTTP)."`
	TLSKey           string        `name:"tls-key" env:"KAPSEL_TLS_KEY" placeholder:"FILE" help:"The certificate's private key (PEM) (${env})."`
	AdminKey         secret.Text   `env:"KAPSEL_ADMIN_KEY" placeholder:"KEY" help:"Instance admin key, 32 or more printable characters (${env}, default with SQLite: generated)."`
	EncryptionKey    secret.Text   `env:"KAPSEL_ENCRYPTION_KEY" placeholder:"KEYS" help:"32 bytes in base64 that wrap secrets at rest; a comma list: the first wraps, the others only unwrap (${env}, default with SQLite: generated)."`
	EgressAllow      string        `env:"KAPSEL_EGRESS_ALLOW" placeholder:"LIST" help:"Comma list of CIDR or CIDR:PORT that deliveries may reach although not public (${env})."`
	TrustedProxies   string        `env:"KAPSEL_TRUSTED_PROXIES" placeholder:"LIST" help:"Comma list of CIDRs whose X-Forwarded-For is believed (${env})."`
	Workers          int           `name:"worker-pool-size" env:"WORKER_POOL_SIZE" default:"1000" help:"Exchanges in flight at once (${env}, default ${default})."`
	Capacity         int           `name:"channel-capacity" env:"CHANNEL_CAPACITY" default:"10000" help:"Accepted requests waiting for a commit before new ones get 503 (${env}, default ${default})."`
	BodyMemory       *string       `env:"KAPSEL_BODY_MEMORY" placeholder:"SIZE" help:"Bytes of bodies held at once (${env}, default 256MiB, or a quarter of the memory where that is less)."`
	MaxBody          string        `env:"KAPSEL_MAX_BODY" default:"10MiB" placeholder:"SIZE" help:"The longest body of a webhook, up to 64MiB and a quarter of the body memory (${env}, default ${default})."`
	NodeLease        time.Duration `env:"KAPSEL_NODE_LEASE" default:"10s" help:"How long a silent node keeps its work, 3s to 60s (${env}, default ${default})."`
	DrainDelay       time.Duration `env:"KAPSEL_DRAIN_DELAY" default:"5s" help:"How long ingest goes on after SIGTERM, 0s to 15s (${env}, default ${default})."`
	AuditKeyFile     string        `env:"KAPSEL_AUDIT_KEY_FILE" placeholder:"FILE" help:"File with the key that signs audit logs, 32 bytes in base64, the same on every node; made if it is not there (${env}, default: in the database, sealed)."`
	Witnesses        string        `name:"audit-witnesses" env:"KAPSEL_AUDIT_WITNESSES" placeholder:"LIST" help:"Comma list of witnesses that sign the heads of audit logs, each VKEY and URL with a space between (${env})."`
	Wanted           int           `name:"audit-witnesses-wanted" env:"KAPSEL_AUDIT_WITNESSES_WANTED" default:"1" help:"How many of them must have signed a head, unless a tenant says otherwise, 0 to 20 (${env}, default ${default})."`
	AcceptRollback   bool          `help:"Once, after the database was restored from a backup or is used again instead of its copy: end all audit logs and begin new ones."`
	Ledger           string        `env:"KAPSEL_LEDGER" default:"off" enum:"on,off" help:"on: entries for the ledger are written with each delivery made and ended, for kapsel-ledger to book (${env}, default ${default})."`
	NoticesMail      string        `env:"KAPSEL_NOTICES_MAIL" placeholder:"LIST" help:"Comma list of e-mail addresses that get the notices of all tenants (${env}, default none)."`
	NoticesFrom      string        `env:"KAPSEL_NOTICES_FROM" placeholder:"ADDRESS" help:"Where these e-mails come from (${env}, default the first of KAPSEL_NOTICES_MAIL)."`
	SMTPURL          secret.Text   `name:"smtp-url" env:"KAPSEL_SMTP_URL" placeholder:"URL" help:"Mail server, smtp://user:password@host:587, with STARTTLS, or smtps://… (${env})."`
	NoticesTenant    string        `env:"KAPSEL_NOTICES_TENANT" placeholder:"TENANT" help:"The id, ten_…, of the operator's own tenant, which gets the notices of all tenants (${env}, default none)."`
	OIDCIssuer       string        `name:"oidc-issuer" env:"KAPSEL_OIDC_ISSUER" placeholder:"URL" help:"OpenID provider with which people sign in to the dashboard, as it names itself (${env}, default none)."`
	OIDCClientID     string        `name:"oidc-client-id" env:"KAPSEL_OIDC_CLIENT_ID" placeholder:"ID" help:"Kapsel's client at the provider (${env})."`
	OIDCClientSecret secret.Text   `name:"oidc-client-secret" env:"KAPSEL_OIDC_CLIENT_SECRET" placeholder:"SECRET" help:"The client's secret; empty for a public client (${env})."`
	OIDCName         string        `name:"oidc-name" env:"KAPSEL_OIDC_NAME" placeholder:"NAME" help:"What people call the provider (${env}, default its host)."`
	OIDCScopes       string        `name:"oidc-scopes" env:"KAPSEL_OIDC_SCOPES" default:"openid profile email" placeholder:"LIST" help:"Scopes to ask for, with spaces between (${env}, default ${default})."`
	OIDCAdmin        string        `name:"oidc-admin" env:"KAPSEL_OIDC_ADMIN" placeholder:"LIST" help:"Comma list of CLAIM=VALUE, such as groups=kapsel-admins; who has one is an admin (${env})."`
	OIDCTenant       string        `name:"oidc-tenant" env:"KAPSEL_OIDC_TENANT" placeholder:"LIST" help:"Comma list of CLAIM, which holds the id of a person's tenant, and CLAIM=VALUE:TENANT, such as groups=acme:ten_… (${env})."`
	OIDCWrite        string        `name:"oidc-write" env:"KAPSEL_OIDC_WRITE" placeholder:"LIST" help:"Comma list of CLAIM=VALUE; who of a tenant has one may change things, others only read (${env})."`
	Dev              bool          `help:"For a developer's machine: data in kapsel-dev/, loopback only, a demo endpoint with a built-in inbox."`

	unknown []string // variables that look like settings and are none; see checkEnvironment

	// The values of the texts above; set by check.
	memory    budget.Memory
	allow     []egress.AllowRule
	proxies   []netip.Prefix
	notices   kapsel.TenantID
	smtp      mail.Server
	mailTo    []string // nobody: no e-mails are sent
	witnesses []*witness.Client
	signOn    *oidc.Config // without what start adds; nil: none
}

// devDatabase is the database of --dev.
const devDatabase = "sqlite:kapsel-dev/kapsel.db"

// checkListen fails for an address that is not host:port, and with --dev for one that others can reach.
func (s *serveSettings) checkListen(setting, address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return settingError("%s: %q is not host:port", setting, address)
	}
	if ip, err := netip.ParseAddr(host); s.Dev && host != "localhost" && (err != nil || !ip.IsLoopback()) {
		return settingError("%s: --dev listens on loopback only, not on %q", setting, address)
	}
	return nil
}

// check validates the settings and parses their texts. Its errors name the setting and never hold a secret's
// value.
func (s *serveSettings) check() error {
	if s.Dev {
		if s.DatabaseURL == "sqlite:kapsel-data/kapsel.db" {
			s.DatabaseURL = devDatabase
		}
		s.LogFormat, s.DrainDelay = "text", 0
	}
	if err := s.databaseSettings.check(); err != nil {
		return err
	}
	if err := s.checkListen("KAPSEL_LISTEN (--listen)", s.Listen); err != nil {
		return err
	}
	switch {
	case (s.TLSCert == "") != (s.TLSKey == ""):
		return settingError("KAPSEL_TLS_CERT (--tls-cert) and KAPSEL_TLS_KEY (--tls-key): one is of no use without the other")
	case s.TLSCert != "" && s.Dev:
		return settingError("KAPSEL_TLS_CERT (--tls-cert): --dev speaks plain HTTP only")
	}
	if s.MetricsListen != "" {
		if err := s.checkListen("KAPSEL_METRICS_LISTEN (--metrics-listen)", s.MetricsListen); err != nil {
			return err
		}
	}
	var err error
	if s.PublicURL != "" {
		if s.PublicURL, err = plainURL(s.PublicURL); err != nil {
			return settingError("KAPSEL_PUBLIC_URL (--public-url): %v", err)
		}
	}
	if s.NoticesTenant != "" {
		if s.notices, err = kapsel.ParseTenantID(s.NoticesTenant); err != nil {
			return settingError("KAPSEL_NOTICES_TENANT (--notices-tenant): %.40q is not the id of a tenant, ten_…", s.NoticesTenant)
		}
	}
	if err := s.checkMail(); err != nil {
		return err
	}
	if err := s.checkSignOn(); err != nil {
		return err
	}
	if s.allow, err = egress.ParseAllow(s.EgressAllow); err != nil {
		return settingError("KAPSEL_EGRESS_ALLOW (--egress-allow): %v", err)
	}
	for _, text := range strings.FieldsFunc(s.TrustedProxies, func(r rune) bool { return r == ',' || r == ' ' }) {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return settingError("KAPSEL_TRUSTED_PROXIES (--trusted-proxies): %q is not a CIDR", text)
		}
		s.proxies = append(s.proxies, p)
	}
	if s.Workers < 1 || s.Workers > 100_000 {
		return settingError("WORKER_POOL_SIZE (--worker-pool-size): %d is not between 1 and 100000", s.Workers)
	}
	if s.Capacity < 1 || s.Capacity > 10_000_000 {
		return settingError("CHANNEL_CAPACITY (--channel-capacity): %d is not between 1 and 10000000", s.Capacity)
	}
	if err := s.checkBodies(); err != nil {
		return err
	}
	if s.NodeLease < 3*time.Second || s.NodeLease > time.Minute {
		return settingError("KAPSEL_NODE_LEASE (--node-lease): %v is not between 3s and 60s", s.NodeLease)
	}
	if s.DrainDelay < 0 || s.DrainDelay > 15*time.Second {
		return settingError("KAPSEL_DRAIN_DELAY (--drain-delay): %v is not between 0s and 15s", s.DrainDelay)
	}
	if s.witnesses, err = parseWitnesses(s.Witnesses); err != nil {
		return settingError("KAPSEL_AUDIT_WITNESSES (--audit-witnesses): %v", err)
	}
	if s.Wanted < 0 || s.Wanted > kapsel.MaxWitnesses {
		return settingError("KAPSEL_AUDIT_WITNESSES_WANTED (--audit-witnesses-wanted): %d is not between 0 and %d", s.Wanted, kapsel.MaxWitnesses)
	}
	if s.Wanted > len(s.witnesses) && len(s.witnesses) > 0 {
		return settingError("KAPSEL_AUDIT_WITNESSES_WANTED (--audit-witnesses-wanted): %d witnesses are wanted, and KAPSEL_AUDIT_WITNESSES names %d", s.Wanted, len(s.witnesses))
	}
	if err := telemetry.CheckEnvironment(); err != nil {
		return settingError("%v", err)
	}
	return s.checkKeys()
}

// checkBodies validates the memory for bodies and the longest of them.
func (s *serveSettings) checkBodies() error {
	bodies, err := int64(0), error(nil)
	if s.BodyMemory != nil {
		if bodies, err = parseBytes(*s.BodyMemory); err != nil || bodies < 1<<20 {
			return settingError("KAPSEL_BODY_MEMORY (--body-memory): %q is not a size of at least 1MiB, such as 256MiB", *s.BodyMemory)
		}
	}
	s.memory = budget.Divide(memoryLimit(), bodies)
	if s.maxBody, err = parseBytes(s.MaxBody); err != nil || s.maxBody < 1 || s.maxBody > ingest.LargestMaxBody {
		return settingError("KAPSEL_MAX_BODY (--max-body): %q is not a size of 1 byte to 64MiB, such as 25MiB", s.MaxBody)
	}
	if most := s.memory.Bodies / 4; s.maxBody > most {
		return settingError("KAPSEL_MAX_BODY (--max-body): %s is more than a quarter of KAPSEL_BODY_MEMORY (--body-memory), which is %s; lower it to %s, or raise the memory to %s",
			sizeText(s.maxBody), sizeText(s.memory.Bodies), sizeText(most), sizeText(4*s.maxBody))
	}
	return nil
}

func (s *serveSettings) checkKeys() error {
	key := s.AdminKey.Reveal()
	if s.EncryptionKey.IsZero() && s.sqlitePath() == "" {
		return settingError("KAPSEL_ENCRYPTION_KEY (--encryption-key): must be given with PostgreSQL: 32 random bytes in base64")
	}
	if key == "" {
		if s.sqlitePath() == "" {
			return settingError("KAPSEL_ADMIN_KEY (--admin-key): must be given with PostgreSQL")
		}
		return nil
	}
	if len(key) < 32 || strings.HasPrefix(key, "kap_") || strings.ContainsFunc(key, func(r rune) bool { return r < 0x21 || r > 0x7e }) {
		return settingError("KAPSEL_ADMIN_KEY (--admin-key): must be 32 or more printable characters without spaces, and not begin with kap_")
	}
	return nil
}

func (s *databaseSettings) check() error {
	if path, ok := strings.CutPrefix(s.DatabaseURL, "sqlite:"); ok {
		switch {
		case path == "":
			return settingError("%s: names no file; give one, such as sqlite:kapsel-data/kapsel.db", s.urlName())
		case filepath.Base(path) == ":memory:", strings.HasPrefix(path, "file:") && (strings.Contains(path, ":memory:") || strings.Contains(path, "mode=memory")):
			return settingError("%s: a database in memory (:memory:) would lose every event with the process; name a file, such as sqlite:kapsel-data/kapsel.db", s.urlName())
		case strings.HasPrefix(path, "file:"):
			return settingError("%s: SQLite's file: URIs are not understood; name the file itself, such as sqlite:kapsel-data/kapsel.db", s.urlName())
		}
	}
	if s.sqlitePath() == "" && !strings.HasPrefix(s.DatabaseURL, "postgres://") && !strings.HasPrefix(s.DatabaseURL, "postgresql://") {
		return settingError("%s: must begin with sqlite: or postgres://", s.urlName())
	}
	return nil
}

// sqlitePath returns the path of the SQLite file, "" for PostgreSQL.
func (s *databaseSettings) sqlitePath() string {
	path, ok := strings.CutPrefix(s.DatabaseURL, "sqlite:")
	if !ok || path == "" {
		return ""
	}
	return filepath.Clean(path)
}

// sizeText returns a size in a form that parseBytes parses.
func sizeText(n int64) string {
	switch {
	case n > 0 && n%(1<<20) == 0:
		return fmt.Sprintf("%dMiB", n>>20)
	case n > 0 && n%(1<<10) == 0:
		return fmt.Sprintf("%dKiB", n>>10)
	}
	return strconv.FormatInt(n, 10)
}

// parseBytes parses a size such as 1048576, 512KiB, 256MiB or 2GiB.
func parseBytes(text string) (int64, error) {
	unit := int64(1)
	for suffix, n := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if t, ok := strings.CutSuffix(text, suffix); ok {
			text, unit = t, n
			break
		}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil || n < 0 || n > 1<<50/unit {
		return 0, fmt.Errorf("not a size: %q", text)
	}
	return n * unit, nil
}

// checkMail parses the settings of e-mails.
func (s *serveSettings) checkMail() (err error) {
	switch {
	case s.NoticesMail != "" && s.SMTPURL.IsZero():
		return settingError("KAPSEL_NOTICES_MAIL (--notices-mail): needs a mail server, KAPSEL_SMTP_URL")
	case s.NoticesMail != "":
	case !s.SMTPURL.IsZero():
		return settingError("KAPSEL_SMTP_URL (--smtp-url): is of no use without recipients, KAPSEL_NOTICES_MAIL")
	case s.NoticesFrom != "":
		return settingError("KAPSEL_NOTICES_FROM (--notices-from): is of no use without recipients, KAPSEL_NOTICES_MAIL")
	default:
		return nil
	}
	if s.mailTo, err = mail.ParseAddresses(s.NoticesMail); err != nil {
		return settingError("KAPSEL_NOTICES_MAIL (--notices-mail): %v", err)
	}
	from := []string{s.mailTo[0]}
	if s.NoticesFrom != "" {
		if from, err = mail.ParseAddresses(s.NoticesFrom); err != nil || len(from) != 1 {
			return settingError("KAPSEL_NOTICES_FROM (--notices-from): must be one e-mail address, such as kapsel@example.com")
		}
	}
	s.NoticesFrom = from[0]
	if s.smtp, err = mail.ParseServer(s.SMTPURL.Reveal()); err != nil {
		return settingError("KAPSEL_SMTP_URL (--smtp-url): %v", err)
	}
	return nil
}
