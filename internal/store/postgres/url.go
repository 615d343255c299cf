package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// readURL returns the configuration that a database URL gives, with the files and variables that
// the URL refers to. It fails with ErrURL for what Kapsel cannot work with. The error never holds
// a password.
func readURL(url string) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, refuse(ErrURL, "%s", whyUnread(err))
	}
	c := config.ConnConfig
	if err := checkParameters(c); err != nil {
		return nil, refuse(ErrURL, "%v", err)
	}
	for name := range c.RuntimeParams {
		if _, ours := ownSetting(name); ours { // session.set sets it once the connection is made
			delete(c.RuntimeParams, name)
		}
	}
	if c.RuntimeParams["application_name"] == "" {
		c.RuntimeParams["application_name"] = "kapsel"
	}
	if c.ConnectTimeout == 0 || c.ConnectTimeout > 10*time.Second {
		c.ConnectTimeout = connectTimeout
	}
	dialer := net.Dialer{Timeout: c.ConnectTimeout, KeepAlive: userTimeout, Control: setUserTimeout}
	c.DialFunc = dialer.DialContext
	c.ValidateConnect = takesWrites
	if !strings.Contains(url, "pool_max_conns") {
		config.MaxConns = 10
	}
	return config, nil
}

// errReadOnly says that a server takes no writes, which may pass.
var errReadOnly = fmt.Errorf("%w: it is a standby, or default_transaction_read_only is on for the role or the database", pgconn.ErrReadOnlyConnection)

// takesWrites fails with errReadOnly for a connection to a server that takes no writes.
func takesWrites(ctx context.Context, conn *pgconn.PgConn) error {
	err := pgconn.ValidateConnectTargetSessionAttrsReadWrite(ctx, conn)
	if errors.Is(err, pgconn.ErrReadOnlyConnection) {
		return errReadOnly
	}
	return err
}

// whyUnread returns why a URL cannot be read, without the URL: the library's text repeats the URL,
// and finds the password in it only if the URL is well formed.
func whyUnread(err error) string {
	text := err.Error()
	if _, unread := errors.AsType[*pgconn.ParseConfigError](err); unread {
		text = text[strings.LastIndex(text, "`")+1:]
	}
	return strings.TrimPrefix(text, ": ")
}

// checkParameters fails for parameters of a URL, or of the service file or the variables beside
// it, that would break what Kapsel does on its connections.
func checkParameters(c *pgx.ConnConfig) error {
	if c.DefaultQueryExecMode != pgx.QueryExecModeCacheStatement {
		return errors.New("default_query_exec_mode: Kapsel works with cache_statement only; leave the parameter out")
	}
	if c.StatementCacheCapacity < 1 {
		return errors.New("statement_cache_capacity: must be 1 or more, or be left out")
	}
	// The library keeps of target_session_attrs only what it makes of it.
	for _, unfit := range []pgconn.ValidateConnectFunc{
		pgconn.ValidateConnectTargetSessionAttrsReadOnly,
		pgconn.ValidateConnectTargetSessionAttrsStandby,
		pgconn.ValidateConnectTargetSessionAttrsPreferStandby,
	} {
		if reflect.ValueOf(c.ValidateConnect).Pointer() == reflect.ValueOf(unfit).Pointer() {
			return errors.New("target_session_attrs: Kapsel needs a server that takes writes; use read-write, or leave the parameter out")
		}
	}
	for name, value := range c.RuntimeParams {
		if strings.EqualFold(name, "timezone") && value == os.Getenv("PGTZ") ||
			name == "options" && value == os.Getenv("PGOPTIONS") {
			continue // these variables are meant for other programs; the session's own settings win
		}
		if err := checkSetting(name, value); err != nil {
			return err
		}
		if name != "options" {
			continue
		}
		for name, value := range optionSettings(value) {
			if err := checkSetting(name, value); err != nil {
				return fmt.Errorf("options: %w", err)
			}
		}
	}
	return nil
}

// checkSetting fails for a setting of the server that the URL asks for and that Kapsel sets to
// another value, or could not work with.
func checkSetting(name, value string) error {
	if want, ours := ownSetting(name); ours && !strings.EqualFold(value, want) {
		return fmt.Errorf("%s: Kapsel sets it itself, to %q; leave the parameter out", name, want)
	}
	for _, unfit := range unfitSettings {
		if strings.EqualFold(name, unfit.name) && !slices.Contains(unfit.fit, strings.ToLower(value)) {
			return fmt.Errorf("%s: %s; leave the parameter out", name, unfit.why)
		}
	}
	return nil
}

// ownSetting returns the value to which Kapsel sets a setting on every connection. ours is false
// for a setting that Kapsel does not set.
func ownSetting(name string) (value string, ours bool) {
	for _, s := range slices.Concat(engineSession.needed, engineSession.wished, unseen) {
		if strings.EqualFold(name, s.name) {
			return s.value, true
		}
	}
	return "", false
}

// unfitSettings are settings that Kapsel does not set, each with the values that Kapsel can work
// with.
var unfitSettings = []struct {
	name string
	fit  []string
	why  string
}{
	{"client_encoding", []string{"utf8", "utf-8", "unicode"}, "Kapsel speaks UTF8"},
	{"default_transaction_read_only", []string{"off", "false", "no", "0"}, "Kapsel writes"},
	{"replication", []string{"off", "false", "no", "0"}, "Kapsel's connections are not for replication"},
	{"standard_conforming_strings", []string{"on", "true", "yes", "1"}, "Kapsel's statements have standard strings"},
}

// takeSettings takes the settings out of the parameters with which a connection begins, and returns them in
// the order of their names. A pooler may refuse or drop such parameters, so they are set once the connection is
// made. Poolers know the application's name. options stays, too: it may have more than settings. replication is
// no setting.
func takeSettings(params map[string]string) (all []setting) {
	found := optionSettings(params["options"])
	for name, value := range params {
		switch name {
		case "application_name", "options", "replication":
		default:
			found[name] = value
			delete(params, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		all = append(all, setting{name, found[name]})
	}
	return all
}

// optionSettings returns the settings in the parameter options: -c name=value or --name=value.
func optionSettings(options string) map[string]string {
	all := map[string]string{}
	words := strings.Fields(options)
	for i := 0; i < len(words); i++ {
		word, ok := strings.CutPrefix(words[i], "--")
		if !ok {
			if word, ok = strings.CutPrefix(words[i], "-c"); !ok {
				continue
			}
			if word == "" && i+1 < len(words) {
				i++
				word = words[i]
			}
		}
		if name, value, ok := strings.Cut(word, "="); ok {
			all[strings.ReplaceAll(name, "-", "_")] = strings.ReplaceAll(value, `\`, "")
		}
	}
	return all
}
