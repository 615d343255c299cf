package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/kapsel-hq/kapsel/internal/durable"
)

// Backup copies the store's database to a new file; see the function Backup.
func (s *Store) Backup(ctx context.Context, to string) error { return Backup(ctx, s.path, to) }

// Backup copies the database at path to a new file, as the database is at one moment. This or
// another process may write to it meanwhile; the WAL of a busy database grows until the copy is
// complete. The new file gets its name when it is complete and synced. Backup fails if there is no
// database at path, or if a file with the new name exists.
func Backup(ctx context.Context, path, to string) (err error) {
	if err := MustExist(path); err != nil {
		return err
	}
	if err := mustNotExist(to); err != nil {
		return err
	}
	tmp := to + ".incomplete"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) { // left by an earlier backup
		return err
	}
	if err := createFile(tmp); err != nil {
		return fmt.Errorf("make the backup: %w", err)
	}
	defer func() {
		if err != nil {
			os.Remove(tmp)
		}
	}()
	if err := copyDatabase(ctx, path, tmp); err != nil {
		return fmt.Errorf("write the backup: %w", err)
	}
	if err := syncFile(tmp); err != nil {
		return fmt.Errorf("sync the backup: %w", err)
	}
	if err := mustNotExist(to); err != nil {
		return err
	}
	if err := os.Rename(tmp, to); err != nil {
		return fmt.Errorf("name the backup: %w", err)
	}
	return durable.SyncDir(filepath.Dir(to))
}

// MustExist fails if there is no database at path: the file is missing or empty. Callers that need
// a database must call it before they open the file, because an empty file would be taken for a
// new database.
func MustExist(path string) error {
	switch info, err := os.Stat(path); {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("there is no database at %s: %w", path, os.ErrNotExist)
	case err != nil:
		return fmt.Errorf("find the database: %w", err)
	case info.Size() == 0:
		return fmt.Errorf("the file %s is empty and no database", path)
	}
	return nil
}

func mustNotExist(path string) error {
	switch _, err := os.Lstat(path); {
	case err == nil:
		return fmt.Errorf("%s exists; name a new file", path)
	case errors.Is(err, os.ErrNotExist):
		return nil
	default:
		return err
	}
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// copyDatabase copies the pages of one snapshot. It looks at ctx after every few MiB, and fails if
// ctx has ended or if path is no database of Kapsel.
func copyDatabase(ctx context.Context, path, to string) error {
	src, err := open(path)
	if err != nil {
		return err
	}
	defer src.close()
	var ours int64
	_, err = src.query(`SELECT count(*) FROM sqlite_schema WHERE name = 'schema_info'`).one(func(s *stmt) { ours = s.colInt() })
	if err != nil {
		return err
	}
	if ours == 0 {
		return errors.New("the file is not a database of Kapsel's")
	}
	dst, err := open(to)
	if err != nil {
		return err
	}
	defer dst.close()
	// A backup that fails is deleted, so the file needs no journal. Backup syncs the file when it is
	// complete.
	if err := dst.script(`PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF`); err != nil {
		return err
	}
	// A transaction that has read keeps its snapshot.
	if err := src.script(`BEGIN; SELECT count(*) FROM sqlite_schema`); err != nil {
		return err
	}
	name, err := libc.CString("main")
	if err != nil {
		return err
	}
	defer libc.Xfree(dst.tls, name)
	b := sqlite3.Xsqlite3_backup_init(dst.tls, dst.db, name, src.db, name)
	if b == 0 {
		return dst.error(sqlite3.Xsqlite3_extended_errcode(dst.tls, dst.db))
	}
	rc := int32(sqlite3.SQLITE_OK)
	for rc == sqlite3.SQLITE_OK && ctx.Err() == nil {
		rc = sqlite3.Xsqlite3_backup_step(dst.tls, b, 512)
	}
	end := sqlite3.Xsqlite3_backup_finish(dst.tls, b)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case rc != sqlite3.SQLITE_DONE:
		return dst.error(rc)
	case end != sqlite3.SQLITE_OK:
		return dst.error(end)
	}
	return nil
}
