//go:build !((linux || darwin) && (amd64 || arm64))

// Package tigerbeetle keeps books in TigerBeetle, on Linux and macOS.
package tigerbeetle

import (
	"errors"

	"github.com/kapsel-hq/kapsel/internal/ledger"
)

// Open fails: there is no client for this system.
func Open(string, string, [16]byte) (ledger.Books, error) {
	return nil, errors.New("kapsel-ledger runs on Linux and macOS only, on amd64 and arm64")
}
