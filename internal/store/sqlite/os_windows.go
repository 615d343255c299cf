package sqlite

import "os"

// mayUse returns an error if this process may not read and write the file at path.
func mayUse(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return f.Close()
}
