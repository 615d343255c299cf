//go:build !windows

package secret

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// readByOthers reports whether the file's mode gives its group or others any access.
func readByOthers(info fs.FileInfo) bool { return info.Mode().Perm()&0o077 != 0 }

// syncDir makes the names that were created in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync key file's directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync key file's directory: %w", err)
	}
	return nil
}
