package durable

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func TestReplace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, text := range []string{"first", "", "a longer text"} {
		if err := Replace(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		info, e := os.Stat(path)
		if err != nil || e != nil || string(b) != text || info.Mode().Perm()&0o077 != 0 {
			t.Fatalf("the file holds %q with %v, %v, %v", b, info, err, e)
		}
	}
	if err := Replace(filepath.Join(path, "below"), nil); err == nil {
		t.Error("a file was written below a file")
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("beside the file there is %v, %v", left, err)
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	l, err := TakeLock(t.Context(), path, "the directory", 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := TakeLock(t.Context(), path, "the directory", 0); err == nil || !strings.Contains(err.Error(), "the directory is in use by process ") {
		t.Errorf("a second lock: %v", err)
	}
	l.Release()
	again, err := TakeLock(t.Context(), path, "the directory", 0)
	if err != nil {
		t.Fatal(err)
	}
	again.Release()
}

func TestMakeDirs(t *testing.T) {
	root := t.TempDir()
	file := filepath.Join(root, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		deep := filepath.Join(root, "a", "b", "c")
		if err := MakeDirs(deep); err != nil {
			t.Fatal(err)
		}
		for dir := deep; dir != root; dir = filepath.Dir(dir) {
			if info, err := os.Stat(dir); err != nil || !info.IsDir() || info.Mode().Perm() != 0o700 && runtime.GOOS != "windows" {
				t.Errorf("%s: %v, %v", dir, info, err)
			}
		}
	}
	if err := MakeDirs(filepath.Join(file, "below")); err == nil {
		t.Error("a directory below a file")
	}
}
