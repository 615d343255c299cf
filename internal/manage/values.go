package manage

import "time"

// orNew returns the ID that an object was promised, or a new one if none was.
func orNew[ID comparable](promised ID, fresh func(time.Time) ID, now time.Time) ID {
	var zero ID
	if promised != zero {
		return promised
	}
	return fresh(now)
}

// orNil returns a pointer to v, nil for the zero value.
func orNil[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}
