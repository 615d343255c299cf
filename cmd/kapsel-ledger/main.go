// Command kapsel-ledger books the deliveries of a Kapsel in TigerBeetle. It is a client of Kapsel's API
// and of TigerBeetle, and keeps nothing itself. It is a program of its own because it loads TigerBeetle's
// client library, which the static binary kapsel cannot.
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/kapsel-hq/kapsel/client"
	"github.com/kapsel-hq/kapsel/internal/ledger"
	"github.com/kapsel-hq/kapsel/internal/ledger/booker"
	"github.com/kapsel-hq/kapsel/internal/ledger/tigerbeetle"
)

// version is set by the linker for a release.
var version = ""

// settings are flags and environment variables.
type settings struct {
	URL       string        `env:"KAPSEL_URL" default:"http://127.0.0.1:8080" placeholder:"URL" help:"Kapsel's API (${env}, default ${default})."`
	APIKey    string        `name:"api-key" env:"KAPSEL_API_KEY" placeholder:"KEY" help:"A key of scope ledger (${env}); kapsel keys create --scope ledger makes one."`
	AdminKey  string        `env:"KAPSEL_ADMIN_KEY" placeholder:"KEY" help:"Instead: Kapsel's admin key (${env})."`
	Addresses string        `name:"addresses" env:"TIGERBEETLE_ADDRESSES" default:"3000" placeholder:"LIST" help:"TigerBeetle's replicas: a comma list of addresses or ports (${env}, default ${default})."`
	Cluster   string        `name:"cluster" env:"TIGERBEETLE_CLUSTER_ID" placeholder:"ID" help:"The cluster's id, a number above 0 (${env})."`
	Library   string        `name:"client" env:"KAPSEL_LEDGER_CLIENT" placeholder:"FILE" help:"TigerBeetle's client library, libtb_client.so of release 0.17 (${env})."`
	Every     time.Duration `default:"1m" help:"How often the books are compared with Kapsel, 10s to 1h (default ${default})."`

	Version kong.VersionFlag `help:"Print the version."`
}

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run parses a command line, books until a signal comes, and returns the exit code: 0 stopped, 1 failed,
// 2 wrong settings.
func run(args []string, out, errOut io.Writer) int {
	var s settings
	exited := -1
	parser, err := kong.New(&s, kong.Name("kapsel-ledger"),
		kong.Description("kapsel-ledger books the deliveries of a Kapsel that runs with KAPSEL_LEDGER=on in TigerBeetle, and compares both."),
		kong.Writers(out, errOut), kong.Vars{"version": "kapsel-ledger " + buildVersion()}, kong.Exit(func(code int) { exited = code }))
	if err != nil {
		fmt.Fprintln(errOut, "kapsel-ledger:", err)
		return 1
	}
	_, err = parser.Parse(args)
	if exited >= 0 {
		return exited
	}
	var b *booker.Booker
	if err == nil {
		b, err = s.booker(slog.New(slog.NewJSONHandler(errOut, nil)))
	}
	if err != nil {
		fmt.Fprintln(errOut, "kapsel-ledger:", err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b.Run(ctx)
	return 0
}

func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}

// booker returns the booker of the settings, or what is wrong with them.
func (s *settings) booker(log *slog.Logger) (*booker.Booker, error) {
	key := cmp.Or(s.APIKey, s.AdminKey)
	if key == "" {
		return nil, errors.New("KAPSEL_API_KEY (--api-key): is missing; kapsel keys create --scope ledger makes one, and KAPSEL_ADMIN_KEY (--admin-key), the key that kapsel serve has, does as well")
	}
	cluster, err := clusterID(s.Cluster)
	if err != nil {
		return nil, err
	}
	if s.Library == "" {
		return nil, errors.New("KAPSEL_LEDGER_CLIENT (--client): is missing; it is the path of libtb_client.so, which is in the PyPI package tigerbeetle")
	}
	if _, err := os.Stat(s.Library); err != nil {
		return nil, fmt.Errorf("KAPSEL_LEDGER_CLIENT (--client): %w", err)
	}
	if s.Every < 10*time.Second || s.Every > time.Hour {
		return nil, fmt.Errorf("--every: %v is not between 10s and 1h", s.Every)
	}
	api, err := client.New(s.URL, key)
	if err != nil {
		return nil, fmt.Errorf("KAPSEL_URL (--url), KAPSEL_API_KEY (--api-key), KAPSEL_ADMIN_KEY (--admin-key): %w", err)
	}
	return booker.New(booker.Config{
		API: api, Name: "kapsel-ledger-" + rand.Text(), Every: s.Every, Wait: 20 * time.Second, Log: log,
		Open: func(context.Context) (ledger.Books, error) { return tigerbeetle.Open(s.Library, s.Addresses, cluster) },
	}), nil
}

// clusterID returns a cluster's id, big-endian.
func clusterID(text string) (id [16]byte, err error) {
	n, ok := new(big.Int).SetString(strings.TrimSpace(text), 10)
	if text == "" || !ok || n.Sign() <= 0 || n.BitLen() > 128 {
		return id, fmt.Errorf("TIGERBEETLE_CLUSTER_ID (--cluster): %q is not a number above 0; 0 is for tests of TigerBeetle itself", text)
	}
	n.FillBytes(id[:])
	return id, nil
}
