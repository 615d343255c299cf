package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestVerify runs the command on the examples of package receipt.
func TestVerify(t *testing.T) {
	text, err := os.ReadFile("../../receipt/testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Key      string `json:"log_key"`
		Public   string `json:"log_public_key"`
		Other    string `json:"other_key"`
		Witness  string `json:"witness_key"`
		Packages []struct {
			Name, Text string
			Valid      bool
			Witnessed  []string
			Payload    *string
		}
		Cosignatures []struct {
			Key string `json:"witness_key"`
		}
	}
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	verify := func(args ...string) (code int, out, errs string) {
		var stdout, stderr bytes.Buffer
		code = run(append([]string{"verify"}, args...), streams{&stdout, &stderr})
		return code, stdout.String(), stderr.String()
	}
	byName := map[string]string{}
	for _, p := range v.Packages {
		path := file("proof", p.Text)
		byName[p.Name] = p.Text
		for _, key := range []string{v.Key, v.Public} {
			args := []string{path, "--key", key}
			if len(p.Witnessed) > 0 || p.Name == "a cosignature of another head" { // whose lines verify for those only who have the key
				args = append(args, "--witness", v.Witness)
			}
			code, out, errs := verify(args...)
			if (code == 0) != p.Valid || code > 1 || (out == "") == p.Valid || (errs == "") != p.Valid {
				t.Errorf("%s: exit %d, %q, %q", p.Name, code, out, errs)
			}
		}
		if code, out, errs := verify(path, "--key", v.Other); code != 1 || out != "" {
			t.Errorf("%s with another key: exit %d, %q, %q", p.Name, code, out, errs)
		}
		if p.Payload != nil {
			if code, out, errs := verify(path, "--key", v.Key, "--payload", file("payload", *p.Payload)); code != 0 || !strings.Contains(out, "The payload that was given is the one of the record.") {
				t.Errorf("%s with its payload: exit %d, %q, %q", p.Name, code, out, errs)
			}
		}
	}

	good := file("good.json", byName["leaf 3 of 21"])
	witnessed := file("witnessed.json", byName["with a witness and an unknown signature"])
	unsalted := file("unsalted.tlog-proof", byName["a tlog-proof without a salt"])
	payload, other := file("payload", `{"number":3}`), file("other", `{"number":4}`)
	answer := file("answer", "ok")
	for _, c := range []struct {
		args     string
		code     int
		out, err string // parts of what is printed
	}{
		{good + " --key KEY --url https://example.com/hook --request " + payload + " --response " + answer, 0, "The response that was given", ""},
		{good + " --key KEY --payload " + other, 1, "leaf 3 of the log kapsel/0001", "the payload: it is not what the leaf has a commitment to"},
		{good + " --key KEY --url https://example.com/", 1, "", "the URL: it is not"},
		{unsalted + " --key KEY --payload " + other, 1, "no salt", "the leaf has no commitment to it"},
		{witnessed + " --key KEY --witness WITNESS", 0, "The witness witness.example/w1 saw this head at 2024-11-29T11:00:30Z", ""},
		{good + " --key KEY --witness WITNESS", 1, "no witness", "the witness witness.example/w1 has not signed this head"},
		{good + " --key OTHER --key KEY", 0, "with status 200", ""},
		{good + " --key KEY --json", 0, `"leaf_index":3`, ""},
		{good + " --key OTHER --json", 1, `{"proven":false,"error":"NOT proven: the checkpoint of kapsel/`, "NOT proven"},
		{good, 2, "", "--key"},
		{good + " --key nonsense", 2, "", "--key: a key is"},
		{witnessed + " --key KEY --witness WITNESS --witness SECOND --witnesses 1", 0, "The witness witness.example/w1 saw this head", ""},
		{witnessed + " --key KEY --witness WITNESS --witness SECOND --witnesses 2", 1, "", "1 of the witnesses have signed this head, and 2 are wanted"},
		{witnessed + " --key KEY --witness WITNESS --witness SECOND", 1, "", "has not signed this head"},
		{witnessed + " --key KEY --witness WITNESS --witnesses 2", 2, "", "--witnesses: 2 is not between 1 and 1"},
		{witnessed + " --key KEY --witnesses 1", 2, "", "--witnesses: 1 is not between 1 and 0"},
		{good + " --key WITNESS", 2, "", "give it with --witness"},
		{good + " --key KEY --witness KEY", 2, "", "not the key of a witness"},
		{filepath.Join(dir, "absent") + " --key KEY", 2, "", "absent: no such file"},
		{good + " --key KEY --payload " + filepath.Join(dir, "absent"), 2, "", "--payload: "},
		{payload + " --key KEY", 1, "", "not a proof package"},
		{good + " --key KEY --payload=", 2, "", "--payload: is empty"},
		{good + " --key KEY --url=", 2, "", "--url: is empty"},
		{good + " --key KEY --request=", 2, "", "--request: is empty"},
		{good + " --key KEY --response=", 2, "", "--response: is empty"},
		{"- --key KEY --payload -", 2, "", "--payload: only one of the files can be standard input"},
	} {
		args := strings.Fields(strings.NewReplacer("KEY", v.Key, "OTHER", v.Other, "WITNESS", v.Witness, "SECOND", v.Cosignatures[1].Key).Replace(c.args))
		code, out, errs := verify(args...)
		if code != c.code || !strings.Contains(out, c.out) || !strings.Contains(errs, c.err) || (errs == "") != (c.code == 0) {
			t.Errorf("%s: exit %d, want %d\n%s%s", c.args, code, c.code, out, errs)
		}
	}
}
