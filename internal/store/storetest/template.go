package storetest

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// Template returns a function that makes database files for tests: copies of the file that
// migrate makes when the first one is asked for. migrate must close the file. The end of a test
// removes its copies.
//
// The copies are in memory where the system has room for files there, but for those of benchmarks:
// what these tests check does not depend on a disk. With a disk, the engine's tests took twice the
// time. Tests of the whole program have their files on the disk.
func Template(migrate func(path string) error) func(t testing.TB) (path string) {
	template := sync.OnceValues(func() (file []byte, err error) {
		dir, err := os.MkdirTemp("", "kapsel-template-*")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir)
		path := filepath.Join(dir, "kapsel.db")
		if err := migrate(path); err != nil {
			return nil, err
		}
		return os.ReadFile(path)
	})
	return func(t testing.TB) (path string) {
		t.Helper()
		file, err := template()
		if err != nil {
			t.Fatalf("make the database that tests copy: %v", err)
		}
		path = filepath.Join(directory(t), "kapsel.db")
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
}

// directory returns a new directory, which the end of the test removes.
func directory(t testing.TB) string {
	t.Helper()
	if _, benchmark := t.(*testing.B); benchmark || !inMemory() {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(memory, "kapsel-test-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
