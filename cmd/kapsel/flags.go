package main

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

// durations lets every flag of type time.Duration take days.
var durations = kong.TypeMapper(reflect.TypeFor[time.Duration](), kong.MapperFunc(func(c *kong.DecodeContext, target reflect.Value) error {
	var text string
	if err := c.Scan.PopValueInto("duration", &text); err != nil {
		return err
	}
	d, err := parseDuration(text)
	if err != nil {
		return err
	}
	target.SetInt(int64(d))
	return nil
}))

// dayed matches a duration whose first unit is days.
var dayed = regexp.MustCompile(`^([-+]?)(\d+(?:\.\d+)?)d(.*)$`)

// parseDuration parses a duration in Go's form, which may begin with days of 24 hours, such as 30d or 1d12h.
func parseDuration(text string) (time.Duration, error) {
	errFormat := fmt.Errorf("%q is not a duration such as 500ms, 30s, 5m, 2h or 30d", text)
	m := dayed.FindStringSubmatch(text)
	if m == nil {
		d, err := time.ParseDuration(text)
		if err != nil {
			return 0, errFormat
		}
		return d, nil
	}
	days, err := strconv.ParseFloat(m[2], 64)
	if err != nil || days > 100*365 {
		return 0, errFormat
	}
	d := time.Duration(days * float64(24*time.Hour))
	if m[3] != "" {
		if m[3][0] < '0' || m[3][0] > '9' {
			return 0, errFormat
		}
		rest, err := time.ParseDuration(m[3])
		if err != nil {
			return 0, errFormat
		}
		d += rest
	}
	if m[1] == "-" {
		d = -d
	}
	return d, nil
}

// moment is a time on the command line: a time, a date, or a duration before now.
type moment struct{ time.Time }

// layouts holds the forms of a time without a zone. Such a time is local.
var layouts = []string{time.DateOnly, "2006-01-02 15:04", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02T15:04:05"}

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *moment) UnmarshalText(text []byte) error {
	if d, err := parseDuration(string(text)); err == nil {
		m.Time = time.Now().Add(-d)
		return nil
	}
	if t, err := parseTime(string(text)); err == nil {
		m.Time = t
		return nil
	}
	return errors.New("must be a date such as 2026-01-31, a time such as 2026-01-31T12:00:00Z, or how long ago, such as 1h or 30d")
}

// instant is a time or a date on the command line.
type instant struct{ time.Time }

// UnmarshalText implements encoding.TextUnmarshaler.
func (i *instant) UnmarshalText(text []byte) (err error) {
	i.Time, err = parseTime(string(text))
	return err
}

// parseTime parses a time or a date.
func parseTime(text string) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	for _, layout := range layouts {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, errors.New("must be a date such as 2026-01-31 or a time such as 2026-01-31T12:00:00Z")
}

// repeated returns the first flag that a command line has more than once although it takes only one value, ""
// if there is none. Without this check one of the values would be lost.
func repeated(path []*kong.Path) string {
	seen := map[*kong.Flag]bool{}
	for _, step := range path {
		if step.Flag == nil || step.Resolved || step.Flag.IsCumulative() {
			continue
		}
		if seen[step.Flag] {
			return "--" + step.Flag.Name
		}
		seen[step.Flag] = true
	}
	return ""
}

// pairs are values by name, each given in the form that the flag's placeholder shows, such as
// NAME=VALUE. A name that is given twice is an error.
type pairs map[string]string

// Decode implements kong.MapperValue.
func (p *pairs) Decode(c *kong.DecodeContext) error {
	form := c.Value.Tag.PlaceHolder
	var text string
	if err := c.Scan.PopValueInto(form, &text); err != nil {
		return err
	}
	name, value, ok := strings.Cut(text, "=")
	if !ok || name == "" {
		return fmt.Errorf("%q is not %s", text, form)
	}
	if _, twice := (*p)[name]; twice {
		return fmt.Errorf("%s is given twice", name)
	}
	if *p == nil {
		*p = pairs{}
	}
	(*p)[name] = value
	return nil
}
