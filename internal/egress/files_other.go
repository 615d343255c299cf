//go:build !unix

package egress

// mostFiles returns the process's limit of descriptors; this system sets no number.
func mostFiles() int { return int(^uint(0) >> 1) }

func spare(uintptr) error { return nil }
func reserve() error      { return nil }
