package store

import (
	"errors"
	"log/slog"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// Unavailable wraps trouble of the store itself that passes by itself: nothing is known about
// what was asked. A kapsel.Error passes through, so a method can wrap whatever comes up.
func Unavailable(err error) error {
	if err == nil || kapsel.CodeOf(err) != "" {
		return err
	}
	return &kapsel.Error{
		Code:       kapsel.DatabaseUnavailable,
		Detail:     "the database does not answer; try again",
		RetryAfter: time.Second,
		Err:        err,
	}
}

// Lasting wraps trouble of the store that does not pass until somebody changes something, such
// as a table that is not there. The text says what it is, for users: without SQL, paths and
// addresses.
func Lasting(what string, err error) error {
	return &kapsel.Error{
		Code:       kapsel.DatabaseUnavailable,
		Detail:     what + "; trying again does not help before that is mended. Kapsel's log says more",
		RetryAfter: time.Minute,
		Err:        &lastingError{err},
	}
}

// lastingError marks the cause of an error that lasts.
type lastingError struct{ error }

func (e *lastingError) Unwrap() error { return e.error }

// Lasts reports whether an error is one that Lasting made.
func Lasts(err error) bool {
	var lasting *lastingError
	return errors.As(err, &lasting)
}

// passing are the system's errors that another try a moment later may not meet.
var passing = []error{
	syscall.EAGAIN, syscall.EBUSY, syscall.EDQUOT, syscall.EINTR, syscall.EIO, syscall.EMFILE, syscall.ENFILE,
	syscall.ENOBUFS, syscall.ENOMEM, syscall.ENOSPC, syscall.ESTALE, syscall.ETIMEDOUT,
}

// MayPass reports whether an error of the operating system, such as a shortage or a full disk,
// may be gone a moment later.
func MayPass(err error) bool {
	return slices.ContainsFunc(passing, func(e error) bool { return errors.Is(err, e) })
}

// Passes reports whether an error is trouble of the store that may pass by itself.
func Passes(err error) bool { return kapsel.CodeOf(err) == kapsel.DatabaseUnavailable && !Lasts(err) }

// Alarm logs trouble that needs a person, at most once a minute. The zero Alarm is silent.
// Any goroutine may use it.
type Alarm struct {
	log *slog.Logger

	mu   sync.Mutex
	last time.Time
}

// NewAlarm makes an Alarm that writes to a log.
func NewAlarm(log *slog.Logger) *Alarm { return &Alarm{log: log} }

// Raise logs an error, unless it was raised less than a minute ago.
func (a *Alarm) Raise(err error) {
	a.mu.Lock()
	now := time.Now()
	quiet := a.log == nil || !a.last.IsZero() && now.Sub(a.last) < time.Minute
	if !quiet {
		a.last = now
	}
	a.mu.Unlock()
	if !quiet {
		a.log.Error("the database needs a person: senders are answered 503 until then", "error", err)
	}
}

// NotFound says that a kind of object is not there, or not the caller's.
func NotFound(kind string) error {
	return kapsel.Errorf(kapsel.NotFound, "no such %s", kind)
}
