package secret

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// LoadOrCreateKeyFile reads the secret in a file, and makes the file with what generate
// returns where there is none. When it returns, the secret is in the file for good: a new
// file is complete, mode 0600, and synced together with its directory's entry for it.
//
// White space around the secret does not count. A file that its group or others can read is
// refused, and so is an empty one: it is never replaced.
func LoadOrCreateKeyFile(path string, generate func() []byte) (value []byte, created bool, err error) {
	value, err = loadKeyFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		value = generate()
		err = createKeyFile(path, value)
		created = err == nil
		if errors.Is(err, fs.ErrExist) { // another process was first
			value, err = loadKeyFile(path)
		}
	}
	if err == nil {
		// Also for a file that was there: who made it may have died right here.
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return nil, false, err
	}
	return value, created, nil
}

func loadKeyFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open key file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, fmt.Errorf("stat key file: %w", err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("key file %s is not a regular file", path)
	case readByOthers(info):
		return nil, fmt.Errorf("key file %s can be read by others (mode %04o): chmod 600 it", path, info.Mode().Perm())
	case info.Size() > maxKeyFile:
		return nil, fmt.Errorf("key file %s has more than %d bytes", path, maxKeyFile)
	}
	b := make([]byte, info.Size())
	if _, err := f.ReadAt(b, 0); err != nil && len(b) > 0 {
		return nil, fmt.Errorf("read key file: %w", err)
	}
	if b = bytes.TrimSpace(b); len(b) == 0 {
		return nil, fmt.Errorf("key file %s is empty", path)
	}
	return b, nil
}

const maxKeyFile = 64 << 10

// createKeyFile writes a temporary file beside path and gives it the name when it is
// complete and synced. A crash leaves the temporary file at most. Like os.O_EXCL it fails
// with fs.ErrExist where path exists.
func createKeyFile(path string, value []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return fmt.Errorf("create key file: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(bytes.Clone(value), '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write key file: %w", err)
	}
	if err := os.Link(f.Name(), path); err != nil {
		return fmt.Errorf("create key file: %w", err)
	}
	return nil
}
