// Command kapsel is the webhook reliability service. `kapsel serve` runs the whole service in one process; the
// other commands manage it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/telemetry"
)

// cli is the command line. Each command is a struct with a Run method, in its own file.
type cli struct {
	Serve          serveCmd          `cmd:"" help:"Run the service: ingest, deliveries, API, in one process."`
	Migrate        migrateCmd        `cmd:"" help:"Bring the database's schema up to date and exit."`
	Backup         backupCmd         `cmd:"" help:"Copy a SQLite database to a file while the service runs."`
	Copy           copyCmd           `cmd:"" help:"Copy all that a SQLite database holds to PostgreSQL, or back, while no service uses either."`
	RotateKey      rotateKeyCmd      `cmd:"" help:"Wrap the secrets' data keys with a new encryption key."`
	RotateAuditKey rotateAuditKeyCmd `cmd:"" help:"Sign the audit logs with another key."`
	Fsck           fsckCmd           `cmd:"" help:"Compare the audit logs with themselves and with the attempts."`
	Bench          benchCmd          `cmd:"" help:"Measure this machine: Kapsel beside a relay that only syncs and forwards."`

	Tenants     tenantsCmd        `cmd:"" help:"Tenants of a running service."`
	Keys        keysCmd           `cmd:"" help:"API keys of a tenant."`
	Publish     ask[publishCmd]   `cmd:"" help:"Publish an event to the endpoints that subscribe to it."`
	Apps        appsCmd           `cmd:"" help:"Apps: customers of yours, to whose endpoints you publish."`
	EventTypes  eventTypesCmd     `cmd:"" help:"Event types: the catalogue of what you publish."`
	Sources     sourcesCmd        `cmd:"" help:"Sources: ingest URLs to which endpoints subscribe."`
	Endpoints   endpointsCmd      `cmd:"" help:"Endpoints: where webhooks come in and go to."`
	Events      eventsCmd         `cmd:"" help:"Events: what was received."`
	Deliveries  deliveriesCmd     `cmd:"" help:"Deliveries: what became of events."`
	Replays     replaysCmd        `cmd:"" help:"Replays: delivering many events again."`
	Attempts    attemptsCmd       `cmd:"" help:"Attempts of a delivery: what was sent and answered."`
	PortalLinks portalLinksCmd    `cmd:"" help:"Links for customers into the portal, where they see and manage their endpoints."`
	Providers   ask[providersCmd] `cmd:"" help:"Providers whose signatures can be checked: what to paste where."`
	Changes     ask[changesCmd]   `cmd:"" help:"Who changed what."`
	Usage       ask[usageCmd]     `cmd:"" help:"What a tenant used by day, against its limits."`
	Ledger      ask[ledgerCmd]    `cmd:"" help:"What was made of deliveries, and what is booked of it."`
	Top         ask[topCmd]       `cmd:"" help:"The overview in a terminal: rates, and the endpoints that need somebody first."`
	Listen      ask[listenCmd]    `cmd:"" help:"Develop against it: post events to a program on this machine as they come in."`
	Trigger     ask[triggerCmd]   `cmd:"" help:"Try an endpoint: send it a signed sample of what a provider sends."`
	Proof       ask[proofCmd]     `cmd:"" help:"Write the proof package of an attempt, which verify checks."`
	Verify      verifyCmd         `cmd:"" help:"Check a proof package of the audit log, without a server."`
	Witness     witnessCmd        `cmd:"" help:"Watch that the audit logs of others only grow, and sign their heads."`
	Completion  completionCmd     `cmd:"" help:"Print the script that completes this program's commands in a shell."`

	Health  healthCmd  `cmd:"" help:"Ask a running service whether it is ready; exit 0 if so."`
	Version versionCmd `cmd:"" help:"Print the version."`
	HelpOf  helpCmd    `cmd:"" name:"help" help:"Show what a command does: kapsel help endpoints create."`

	ShowVersion kong.VersionFlag `name:"version" help:"Print the version."`
}

// version is set by the linker for a release.
var version = ""

func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}

// streams holds the outputs of a command.
type streams struct{ out, err io.Writer }

// badSetting is the error for a wrong setting. The exit code is 2. The text names the setting and never holds
// a secret's value.
type badSetting struct{ text string }

func (b badSetting) Error() string { return b.text }

// settingError returns a badSetting.
func settingError(format string, args ...any) error { return badSetting{fmt.Sprintf(format, args...)} }

// unusable returns the error for a setting that cannot be used because of err. It is a badSetting, unless err
// may pass by itself: a shortage, or an address that another process still has or that the machine does
// not have yet. Then the exit code is 1, so that a service manager tries again.
func unusable(setting string, err error) error {
	if store.MayPass(err) || errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EADDRNOTAVAIL) {
		return fmt.Errorf("%s: %w", setting, err)
	}
	return settingError("%s: %v", setting, err)
}

func main() { os.Exit(run(os.Args[1:], streams{os.Stdout, os.Stderr})) }

// run parses and runs a command line and returns the exit code: 0 done, 1 failed, 2 wrong
// settings or command line.
func run(args []string, io streams) (code int) {
	if len(args) > 0 && args[0] == "help" {
		args = append(slices.Clone(args[1:]), "--help")
	}
	var c cli
	exited := -1
	parser, err := kong.New(&c,
		kong.Name("kapsel"),
		kong.Description("Kapsel accepts webhooks, stores them durably before it says 200, and delivers them at least once."),
		kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true}),
		kong.Writers(io.out, io.err),
		kong.Vars{"version": "kapsel " + buildVersion()},
		durations,
		kong.Exit(func(code int) { exited = code }),
	)
	if err != nil {
		lastWords(io.err, err.Error())
		return 1
	}
	command, err := parser.Parse(args)
	if exited >= 0 { // --help
		return exited
	}
	if err != nil {
		lastWords(io.err, brief(unreadText(err))+"; see "+commandOf(err)+" --help")
		return 2
	}
	if flag := repeated(command.Path); flag != "" {
		lastWords(io.err, flag+": is given more than once, and takes one value")
		return 2
	}
	if c.Serve.unknown, err = checkEnvironment(parser.Model.Node, os.Environ()); err != nil {
		lastWords(io.err, brief(err.Error()))
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() { // a second signal ends the process at once
		<-ctx.Done()
		stop()
	}()
	telemetry.MuteLog() // a command with a log adopts it
	command.BindTo(ctx, (*context.Context)(nil))
	command.Bind(io)
	err = command.Run()
	var bad badSetting
	switch {
	case errors.As(err, &bad):
		lastWords(io.err, brief(err.Error()))
		return 2
	case store.Lasts(err):
		lastWords(io.err, brief("DATABASE_URL (--database-url): "+err.Error()))
		return 2
	case err != nil:
		lastWords(io.err, err.Error())
		return 1
	}
	return 0
}

// lastWords prints why the process ends. It does not wait for a reader.
func lastWords(w io.Writer, text string) { telemetry.LastWords(w, "kapsel: "+text+"\n") }

// commandOf returns the command that a command line names, as far as it could be parsed.
func commandOf(err error) string {
	name := "kapsel"
	var unread *kong.ParseError
	if errors.As(err, &unread) {
		for _, step := range unread.Context.Path {
			if step.Command != nil {
				name += " " + step.Command.Name
			}
		}
	}
	return name
}

// unreadText returns why a command line could not be parsed. Where the text names a flag, it also names the
// flag's variable, because the value may have come from there.
func unreadText(err error) string {
	text, _, _ := strings.Cut(err.Error(), " (from envar ")
	for _, words := range plainer {
		text = words.of.ReplaceAllString(text, words.say)
	}
	var unread *kong.ParseError
	if !errors.As(err, &unread) {
		return text
	}
	for _, flag := range unread.Context.Flags() {
		rest, ok := strings.CutPrefix(text, "--"+flag.Name)
		if ok && len(flag.Envs) > 0 && strings.HasPrefix(strings.TrimPrefix(rest, ":"), " ") {
			return flag.Envs[0] + " (--" + flag.Name + "):" + strings.TrimPrefix(rest, ":")
		}
	}
	return text
}

// plainer holds what the parser's errors say in the terms of the program, and what unreadText says instead.
var plainer = []struct {
	of  *regexp.Regexp
	say string
}{
	{regexp.MustCompile(`expected \S+ value but got "EOL" \(<EOL>\)$`), `needs a value`},
	{regexp.MustCompile(`expected a valid \d+ bit u?int but got (".*")$`), `$1 is not a whole number`},
	{regexp.MustCompile(`expected a float but got (".*") \(string\)$`), `$1 is not a number`},
	{regexp.MustCompile(`bool value must be true, 1, yes, false, 0 or no but got (".*")$`), `$1 is neither true nor false`},
	{regexp.MustCompile(`must be one of "",`), `must be one of `}, // left out is not a choice
}

// brief leaves out the middle of a long text, so that a long value in an error does not fill the screen.
func brief(text string) string {
	const start, end = 300, 200
	r := []rune(text)
	if len(r) <= start+end {
		return text
	}
	return string(r[:start]) + "…" + string(r[len(r)-end:])
}

// helpCmd puts help into the list of commands. run turns it into --help.
type helpCmd struct {
	Command []string `arg:"" optional:"" help:"The command."`
}

// Run is never called.
func (helpCmd) Run() error { return nil }

type versionCmd struct{}

func (versionCmd) Run(io streams) error {
	fmt.Fprintln(io.out, "kapsel", buildVersion())
	return nil
}
