package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel/internal/telemetry"
	"github.com/kapsel-hq/kapsel/receipt"
)

// maxValue bounds what verify reads of a file, in bytes: a payload has at most 64 MiB.
const maxValue = 65 << 20

// verifyCmd is `kapsel verify`. It asks no server.
type verifyCmd struct {
	Proof    string   `arg:"" name:"proof" help:"The file of the proof package, JSON or a C2SP tlog-proof; - for standard input."`
	Key      []string `required:"" sep:"none" placeholder:"KEY" help:"The log's public key: base64, or a C2SP vkey, which is of one log only. More than one: its former keys."`
	Witness  []string `sep:"none" placeholder:"KEY" help:"A witness's public key, a C2SP vkey; the witness must have signed the log's head. More than one: several witnesses."`
	Wanted   *int     `name:"witnesses" placeholder:"N" help:"How many of those witnesses must have signed (default: all)."`
	Payload  *string  `placeholder:"FILE" help:"Compare the event's body with this file."`
	URL      *string  `placeholder:"URL" help:"Compare the URL that was called with this one."`
	Request  *string  `placeholder:"FILE" help:"Compare the body that was sent with this file."`
	Response *string  `placeholder:"FILE" help:"Compare the body of the response, at most its first 64 KiB, with this file."`
	JSON     bool     `name:"json" help:"Print the result as JSON."`
}

// Help is shown by `kapsel verify --help`.
func (verifyCmd) Help() string {
	return `Checks a proof package of the audit log, without a server: that the log's key signed the
head, and that the record is in the log. The key must come from who runs Kapsel, or from
somebody you trust, and not with the package.

The exit code is 0 when the record is proven and all that was given fits, 1 when it is not,
and 2 when the command line is wrong or a file cannot be read.

Examples:
  kapsel verify proof.json --key u5dWyoJ7EOmE3RvYQG8T1VTAC4Bxl+bsTxMC1GyGRHU=
  kapsel verify proof.json --key "$KEY" --payload body.json --url https://shop.example/hook
  kapsel verify proof.json --key "$KEY" --witness "$W1" --witness "$W2" --witness "$W3" --witnesses 2`
}

// verifyVerdict is what verify prints as JSON.
type verifyVerdict struct {
	Proven    bool            `json:"proven"`
	Error     *string         `json:"error"` // why it is not proven, or what does not fit
	Leaf      json.RawMessage `json:"leaf"`
	LeafIndex *int64          `json:"leaf_index"`
	Log       *string         `json:"log"`
	TreeSize  *int64          `json:"tree_size"`
	Witnesses []verifyWitness `json:"witnesses"`
	Compared  map[string]bool `json:"compared"` // part of the exchange to whether it fits
	Shows     []string        `json:"shows"`
	ShowsNot  []string        `json:"shows_not"`
}

type verifyWitness struct {
	Name string    `json:"name"`
	At   time.Time `json:"at"`
}

// Run prints what the package proves and what it does not.
func (c *verifyCmd) Run(io streams) error {
	keys, witnesses, err := c.keys()
	if err != nil {
		return err
	}
	values, err := c.values()
	if err != nil {
		return err
	}
	text, err := contents("PROOF", c.Proof)
	if err != nil {
		return err
	}
	v := verifyVerdict{Witnesses: []verifyWitness{}, Compared: map[string]bool{}, Shows: []string{}, ShowsNot: []string{}}
	err = v.check(text, keys, witnesses, c.Wanted, values)
	if err != nil {
		reason := err.Error()
		v.Error = &reason
	}
	out := v.words()
	if c.JSON {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		out = string(b) + "\n"
	}
	telemetry.LastWords(io.out, out)
	if err != nil {
		return errors.New(clean(err.Error()))
	}
	return nil
}

// keys returns the keys of the command line.
func (c *verifyCmd) keys() (keys, witnesses []receipt.Key, err error) {
	for _, text := range c.Key {
		k, err := receipt.ParseKey(text)
		switch {
		case err != nil:
			return nil, nil, settingError("--key: %s", clean(err.Error()))
		case k.Witness:
			return nil, nil, settingError("--key: this is the key of a witness; give it with --witness, and the log's with --key")
		}
		keys = append(keys, k)
	}
	for _, text := range c.Witness {
		k, err := receipt.ParseKey(text)
		switch {
		case err != nil:
			return nil, nil, settingError("--witness: %s", clean(err.Error()))
		case !k.Witness:
			return nil, nil, settingError("--witness: this is not the key of a witness, which is a vkey NAME+ID+BASE64 of type 4")
		}
		witnesses = append(witnesses, k)
	}
	if n := c.Wanted; n != nil && (*n < 1 || *n > len(witnesses)) {
		return nil, nil, settingError("--witnesses: %d is not between 1 and %d, the number of keys that --witness gives", *n, len(witnesses))
	}
	return keys, witnesses, nil
}

// partValue is a value that a part of the exchange is compared with.
type partValue struct {
	part  receipt.Part
	value []byte
}

// values returns the values that were given.
func (c *verifyCmd) values() (values []partValue, err error) {
	stdin := c.Proof == "-"
	for _, f := range []struct {
		part  receipt.Part
		flag  string
		given *string
	}{{receipt.URL, "--url", c.URL}, {receipt.Payload, "--payload", c.Payload}, {receipt.Request, "--request", c.Request}, {receipt.Response, "--response", c.Response}} {
		if f.given == nil {
			continue
		}
		text := *f.given
		if text == "" { // an unset variable of a script: without the comparison the verdict would say too much
			return nil, settingError("%s: is empty; leave the flag out to compare nothing", f.flag)
		}
		value := []byte(text)
		if f.part != receipt.URL {
			if text == "-" && stdin {
				return nil, settingError("%s: only one of the files can be standard input", f.flag)
			}
			stdin = stdin || text == "-"
			if value, err = contents(f.flag, text); err != nil {
				return nil, err
			}
		}
		values = append(values, partValue{f.part, value})
	}
	return values, nil
}

// contents returns the contents of a file that the command line names.
func contents(flag, name string) ([]byte, error) {
	in := io.ReadCloser(os.Stdin)
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return nil, settingError("%s: %v", flag, err)
		}
		defer file.Close()
		in = file
	}
	b, err := io.ReadAll(io.LimitReader(in, maxValue+1))
	switch {
	case err != nil:
		return nil, settingError("%s: %v", flag, err)
	case len(b) > maxValue:
		return nil, settingError("%s: %s has more than %d bytes, which nothing of Kapsel has", flag, name, maxValue)
	}
	return b, nil
}

// check fills in the verdict. The error says why the record is not proven, or what does not fit. Of the
// witnesses wanted must have signed; nil: all.
func (v *verifyVerdict) check(text []byte, keys, witnesses []receipt.Key, wanted *int, values []partValue) error {
	p, err := receipt.ParsePackage(text)
	if err != nil {
		return err
	}
	proven, err := p.Verify(append(keys, witnesses...)...)
	if err != nil {
		return fmt.Errorf("NOT proven: %w", err)
	}
	s := &proven.Signed
	v.Proven, v.Leaf, v.LeafIndex, v.Log, v.TreeSize = true, json.RawMessage(p.Leaf), &proven.Index, &s.Origin, &s.Size
	v.Shows, v.ShowsNot = proven.Shows(), proven.ShowsNot()
	for _, w := range s.Cosignatures {
		v.Witnesses = append(v.Witnesses, verifyWitness{w.Key.Name, w.At})
	}
	var wrong []string
	for _, w := range witnesses {
		if wanted == nil && !s.Cosigned(w) {
			wrong = append(wrong, "the witness "+w.Name+" has not signed this head")
		}
	}
	if n := s.Witnesses(); wanted != nil && n < *wanted {
		wrong = append(wrong, fmt.Sprintf("%d of the witnesses have signed this head, and %d are wanted; keys with the same public key count once, and the log's own key does not count", n, *wanted))
	}
	for _, c := range values {
		err := proven.Compare(c.part, c.value)
		v.Compared[strings.ToLower(string(c.part))] = err == nil
		if err != nil {
			wrong = append(wrong, "the "+string(c.part)+": "+err.Error())
			continue
		}
		v.Shows = append(v.Shows, "The "+string(c.part)+" that was given is the one of the record.")
	}
	if len(wrong) > 0 {
		return errors.New(strings.Join(wrong, "; "))
	}
	return nil
}

// words returns the verdict for people; "" if nothing is proven.
func (v *verifyVerdict) words() string {
	if !v.Proven {
		return ""
	}
	var b strings.Builder
	b.WriteString("proven:\n")
	for _, s := range v.Shows {
		b.WriteString("  " + clean(s) + "\n")
	}
	b.WriteString("not proven by this:\n")
	for _, s := range v.ShowsNot {
		b.WriteString("  " + clean(s) + "\n")
	}
	return b.String()
}
