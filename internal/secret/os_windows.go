package secret

import "io/fs"

// readByOthers returns false: access lists, not the mode, decide who may read a file on Windows. A
// key file inherits the list of its directory.
func readByOthers(fs.FileInfo) bool { return false }

// syncDir does nothing: Windows cannot sync a directory. The journal of NTFS keeps new names.
func syncDir(string) error { return nil }
