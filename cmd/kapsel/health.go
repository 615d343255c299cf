package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/kapsel-hq/kapsel/internal/egress"
)

// healthCmd lets a container check itself without a shell or curl.
type healthCmd struct {
	Listen string `env:"KAPSEL_LISTEN" default:"127.0.0.1:8080" help:"Address of the service (${env}, default ${default})."`
}

// Run asks /health/ready.
func (c *healthCmd) Run(ctx context.Context, io streams) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+dialable(c.Listen)+"/health/ready", nil)
	if err != nil {
		return settingError("KAPSEL_LISTEN (--listen): %v", err)
	}
	resp, err := egress.NewClient(egress.Config{AllowAllPrivate: true}).Do(req)
	if err != nil {
		return fmt.Errorf("the service does not answer: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the service is not ready: status %d", resp.StatusCode)
	}
	fmt.Fprintln(io.out, "ready")
	return nil
}
