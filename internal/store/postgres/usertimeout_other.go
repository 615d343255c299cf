//go:build !linux

package postgres

import "syscall"

// setUserTimeout does nothing on this system; the time-outs of the calls remain.
func setUserTimeout(string, string, syscall.RawConn) error { return nil }
