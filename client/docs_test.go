package client_test

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/kapsel-hq/kapsel/client"
)

// Code of the page that no example runs.
var _ = func(ctx context.Context, c *client.Client, invoice json.RawMessage) (client.NewEvent, error) {
	e, err := c.Publish(ctx, "", client.PublishInput{Type: "invoice.paid", Data: invoice, ID: new("invoice-1042-paid")})
	return e, err
}

// TestDocs checks that the Go code of docs/cli.md is that of the examples or of this file, which compile. A line of …
// stands for what an example does differently.
func TestDocs(t *testing.T) {
	page, err := os.ReadFile("../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	compiled := map[string]bool{"…": true}
	for _, name := range []string{"example_test.go", "docs_test.go"} {
		code, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(code)) {
			compiled[strings.TrimSpace(line)] = true
		}
	}
	compiled[`c, err := client.New("http://127.0.0.1:8080", os.Getenv("KAPSEL_API_KEY"))`] = true // an example has a server of its own
	lines := 0
	for i, block := range strings.Split(string(page), "```") {
		code, isGo := strings.CutPrefix(block, "go\n")
		if i%2 == 0 || !isGo {
			continue
		}
		for line := range strings.Lines(code) {
			if lines++; !compiled[strings.TrimSpace(line)] {
				t.Errorf("docs/cli.md has a line that no example has: %s", line)
			}
		}
	}
	if lines < 10 {
		t.Errorf("the page has only %d lines of Go", lines)
	}
}
