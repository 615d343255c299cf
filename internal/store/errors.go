package store

import (
	"time"

	"github.com/kapsel-hq/kapsel"
)

// Unavailable wraps trouble of the store itself: nothing is known about what was asked. A
// kapsel.Error passes through, so a method can wrap whatever comes up.
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

// NotFound says that a kind of object is not there, or not the caller's.
func NotFound(kind string) error {
	return kapsel.Errorf(kapsel.NotFound, "no such %s", kind)
}
