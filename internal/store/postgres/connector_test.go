package postgres

import (
	"log/slog"
	"testing"
)

// connectorOf makes a connector for a test's database.
func connectorOf(t *testing.T, url string) *connector {
	t.Helper()
	c, err := newConnector(url, false, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return c
}
