package main

import (
	"context"
	"fmt"
	"io"

	"github.com/kapsel-hq/kapsel/receipt"
)

type proofCmd struct {
	ID   string `arg:"" name:"attempt" help:"An attempt's id, att_…"`
	Text bool   `help:"Write a C2SP tlog-proof instead of JSON."`
}

// Help has examples.
func (proofCmd) Help() string {
	return `Writes the package to standard output. It is there at most 10 seconds after the attempt ended.
Whoever has it can check it with kapsel verify and the log's public key, without this server.

Examples:
  kapsel proof att_01m84z4f9xhbbyv6mzt3r805nd > proof.json
  kapsel proof att_01m84z4f9xhbbyv6mzt3r805nd --text > attempt.tlog-proof`
}

func (c proofCmd) do(ctx context.Context, s *session) error {
	if _, err := s.GetProof(ctx, c.ID); err != nil {
		return err
	}
	if !c.Text {
		return s.answered(s.raw)
	}
	p, err := receipt.ParsePackage(s.raw)
	if err != nil {
		return fmt.Errorf("the server did not answer with a proof: %w", err)
	}
	return printed(io.WriteString(s.out, p.Text()))
}
