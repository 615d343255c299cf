package main

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel/client"
)

// intakeFlags holds the settings of an endpoint's or a source's ingest URL that have a flag.
type intakeFlags struct {
	Provider        *string        `complete:"provider" placeholder:"NAME" help:"Who signs what is sent to the ingest URL: stripe, github, hmac, …"`
	SecretFile      string         `placeholder:"FILE" help:"A file with the provider's secrets, one a line; - is standard input."`
	Verification    pairs          `placeholder:"FIELD=VALUE" help:"Another field of verification, such as tolerance=1h, or for the provider hmac signed={time}.{body}; may be repeated."`
	VerifyTokenFile string         `placeholder:"FILE" help:"A file with the verify token, for providers that have one; - is standard input."`
	Response        pairs          `placeholder:"FIELD=VALUE" help:"What accepted webhooks are answered: status=202, content_type=text/plain or body=ok; may be repeated. null in --file takes it away."`
	Idempotency     pairs          `placeholder:"FIELD=VALUE" help:"How duplicates are told: strategy=content, header=X-Delivery, window=48h, or strategy=source_id with path=$.id; may be repeated."`
	Challenge       pairs          `placeholder:"FIELD=VALUE" help:"What the sender asks the URL before the first event, for the providers none, hmac and token: from=query:challenge and to=body; may be repeated. null in --file takes it away."`
	ExpectEvery     *time.Duration `placeholder:"TIME" help:"A notice says so when nothing came in for this long, 1m to 720h. null in --file takes it away."`
	Probe           *bool          `help:"Answer GET and HEAD with 200, for the providers none, hmac and token; --probe=false ends it."`
}

// intakeFlagOf holds the flags of an intake's fields that have a flag of their own.
var intakeFlagOf = map[string]string{
	"verification.provider": "--provider", "verification.secrets": "--secret-file", "verification.verify_token": "--verify-token-file", "probe": "--probe", "expect_every": "--expect-every",
}

// intakeFields holds the objects of an intake whose members are set by a FIELD=VALUE flag with the object's
// name.
var intakeFields = []string{"verification", "response", "idempotency", "challenge"}

// settings returns the request body that --file and the flags ask for. flags holds the flags of the fields that
// are not in intakeFlagOf, and secretFiles the files that the caller reads itself. It fails if more than
// one of the files is standard input.
func (f intakeFlags) settings(file string, flags map[string]string, secretFiles ...string) (requestBody, error) {
	standard := 0 // inputs that are standard input
	for _, name := range append(secretFiles, file, f.SecretFile, f.VerifyTokenFile) {
		if name == "-" {
			standard++
		}
	}
	if standard > 1 {
		return requestBody{}, settingError("only one of the files can be standard input")
	}
	s, err := settingsOf(file, intakeFlagOf, flags)
	if err != nil {
		return s, err
	}
	return s, f.set(s)
}

// set adds the settings that the flags ask for.
func (f intakeFlags) set(s requestBody) error {
	set(s, "--provider", "verification.provider", f.Provider)
	if f.SecretFile != "" {
		secrets, err := readLines("--secret-file", f.SecretFile)
		if err != nil {
			return err
		}
		set(s, "--secret-file", "verification.secrets", &secrets)
	}
	if f.VerifyTokenFile != "" {
		lines, err := readLines("--verify-token-file", f.VerifyTokenFile)
		if err != nil {
			return err
		}
		if len(lines) != 1 {
			return settingError("--verify-token-file: %s must have one line", f.VerifyTokenFile)
		}
		set(s, "--verify-token-file", "verification.verify_token", &lines[0])
	}
	set(s, "--probe", "probe", f.Probe)
	set(s, "--expect-every", "expect_every", text(f.ExpectEvery))
	given := map[string]pairs{"verification": f.Verification, "response": f.Response, "idempotency": f.Idempotency, "challenge": f.Challenge}
	for _, object := range intakeFields {
		for _, name := range slices.Sorted(maps.Keys(given[object])) {
			value, err := intakeField(object, name, given[object][name])
			if err != nil {
				return err
			}
			set(s, "--"+object+" "+name, object+"."+name, &value)
		}
	}
	return nil
}

// intakeField returns the JSON value for a member of one of intakeFields, from its text on the command line.
func intakeField(object, name, text string) (any, error) {
	switch object + "." + name {
	case "verification.secrets", "verification.verify_token":
		return nil, settingError("--verification: %s is secret; use --secret-file or --verify-token-file", name)
	case "verification.decompress", "verification.awaiting_handshake":
		on, err := strconv.ParseBool(text)
		if err != nil {
			return nil, settingError("--verification: %s is true or false", name)
		}
		return on, nil
	case "verification.tolerance", "idempotency.window":
		d, err := parseDuration(text)
		if err != nil {
			return nil, settingError("--%s: %s: %v", object, name, err)
		}
		return d.String(), nil
	case "verification.topic_arns":
		return strings.Split(text, ","), nil
	case "response.status":
		status, err := strconv.Atoi(text)
		if err != nil {
			return nil, settingError("--response: status is a number, such as 202")
		}
		return status, nil
	}
	return text, nil
}

// addSecrets sets the provider's secrets to the former ones and those of --add-secret-file.
func (f intakeFlags) addSecrets(file string, former []client.Secret, in requestBody) error {
	if f.SecretFile != "" {
		return settingError("--add-secret-file: adds to the secrets that --secret-file replaces; use one of them")
	}
	lines, err := readLines("--add-secret-file", file)
	if err != nil {
		return err
	}
	var secrets []client.SecretInput
	for _, s := range former {
		secrets = append(secrets, client.KeepSecret(s.ID))
	}
	for _, line := range lines {
		secrets = append(secrets, client.NewSecret(line))
	}
	set(in, "--add-secret-file", "verification.secrets", &secrets)
	return nil
}
