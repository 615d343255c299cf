package secret

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// LoadOrCreateKeyFile returns the secret in the file at path. If there is no file, it creates one
// with the result of generate. When it returns, the secret is durable: a new file is complete, has
// mode 0600, and is synced together with its directory entry.
//
// White space around the secret is ignored. A file that its group or others can access, or that is
// empty, is an error; LoadOrCreateKeyFile never replaces a file.
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
		// Also if the file existed: the process that created it may have died right here.
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

// createKeyFile writes a temporary file next to path, syncs it and links it to path. A crash
// leaves at most the temporary file. If path exists, it fails with fs.ErrExist, like os.O_EXCL.
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
