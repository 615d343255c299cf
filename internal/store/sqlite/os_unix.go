//go:build unix

package sqlite

import "golang.org/x/sys/unix"

// mayUse returns an error if this process may not read and write the file at path.
func mayUse(path string) error { return unix.Access(path, unix.R_OK|unix.W_OK) }
