package secret

import "io/fs"

// readByOthers reports false: access lists decide who may read a file, not its mode. A key file
// inherits the list of its directory.
func readByOthers(fs.FileInfo) bool { return false }

// syncDir does nothing: Windows does not sync directories; the journal of NTFS keeps new names.
func syncDir(string) error { return nil }
