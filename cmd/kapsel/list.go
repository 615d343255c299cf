package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"
)

// listing holds the flags of every command that lists.
type listing struct {
	Limit int    `default:"50" placeholder:"N" help:"Show at most this many, 0: all (default ${default})."`
	Since moment `placeholder:"TIME" help:"From this time or date on, or how long ago, such as 1h or 30d."`
	Until moment `placeholder:"TIME" help:"Before this time."`
}

// column is a column of a table. The first column of a table holds what --quiet prints.
type column[T any] struct {
	title string
	cell  func(T) string
}

// found is an object, and its JSON as the API answered it.
type found[T any] struct {
	object T
	raw    []byte
}

// raws adds to each object of a list its JSON as the API answered it.
func raws[T any](s *session, objects iter.Seq2[T, error]) iter.Seq2[found[T], error] {
	return func(yield func(found[T], error) bool) {
		for v, err := range objects {
			if !yield(found[T]{v, slices.Clone(s.raw)}, err) {
				return
			}
		}
	}
}

// newestFirst merges lists into one in falling order of IDs. Each list must be in that order, as those of the
// API are.
func newestFirst[T any](lists []iter.Seq2[found[T], error], id func(T) string) iter.Seq2[found[T], error] {
	if len(lists) == 1 {
		return lists[0]
	}
	return func(yield func(found[T], error) bool) {
		type head struct {
			next func() (found[T], error, bool)
			v    found[T]
		}
		var heads []head
		fill := func(h head) bool { // false: yielded an error
			v, err, ok := h.next()
			if err != nil {
				yield(v, err)
				return false
			}
			if h.v = v; ok {
				heads = append(heads, h)
			}
			return true
		}
		for _, l := range lists {
			next, stop := iter.Pull2(l)
			defer stop()
			if !fill(head{next: next}) {
				return
			}
		}
		last := ""
		for len(heads) > 0 {
			newest := 0
			for i := range heads {
				if id(heads[i].v.object) > id(heads[newest].v.object) {
					newest = i
				}
			}
			h := heads[newest]
			heads = slices.Delete(heads, newest, newest+1)
			// An object whose status has changed meanwhile may be in two of the lists.
			if this := id(h.v.object); this != last && !yield(h.v, nil) {
				return
			} else {
				last = this
			}
			if !fill(h) {
				return
			}
		}
	}
}

// byStatus lists the objects with any of the statuses, or all objects if there are no statuses.
func byStatus[T any](s *session, statuses []string, id func(T) string, of func(status string) iter.Seq2[T, error]) iter.Seq2[found[T], error] {
	if len(statuses) == 0 {
		statuses = []string{""}
	}
	var lists []iter.Seq2[found[T], error]
	for _, status := range slices.Compact(slices.Sorted(slices.Values(statuses))) {
		lists = append(lists, raws(s, of(status)))
	}
	return newestFirst(lists, id)
}

// list prints objects: with --json as they were answered, with --quiet their IDs, otherwise as a table. when
// returns the time to which --since and --until apply; nil: they do not apply. falling says that the
// objects are in falling order of that time, so that the list ends at --since.
func list[T any](s *session, objects iter.Seq2[found[T], error], l listing, falling bool, when func(T) time.Time, columns ...column[T]) error {
	if l.Limit < 0 {
		return settingError("--limit: must not be negative; 0 shows all")
	}
	row := func(cell func(column[T]) string) (cells []string) {
		for _, c := range columns {
			cells = append(cells, cell(c))
		}
		return cells
	}
	rows := [][]string{row(func(c column[T]) string { return c.title })}
	n := 0
	for v, err := range objects {
		if err != nil {
			return err
		}
		if when != nil {
			at := when(v.object)
			if early := !l.Since.IsZero() && at.Before(l.Since.Time); early && falling {
				break
			} else if early || !l.Until.IsZero() && !at.Before(l.Until.Time) {
				continue
			}
		}
		if n++; l.Limit > 0 && n > l.Limit {
			fmt.Fprintln(s.err, "there are more; --limit 0 shows all")
			break
		}
		switch {
		case s.JSON:
			err = s.answered(v.raw)
		case s.Quiet:
			err = printed(fmt.Fprintln(s.out, columns[0].cell(v.object)))
		default:
			rows = append(rows, row(func(c column[T]) string { return c.cell(v.object) }))
		}
		if err != nil {
			return err
		}
	}
	if s.JSON || s.Quiet {
		return nil
	}
	if n == 0 {
		fmt.Fprintln(s.err, "there are none")
		return nil
	}
	var text bytes.Buffer
	table(&text, rows)
	return printed(s.out.Write(text.Bytes()))
}

// only lists the objects for which holds returns true.
func only[T any](objects iter.Seq2[found[T], error], holds func(T) bool) iter.Seq2[found[T], error] {
	return func(yield func(found[T], error) bool) {
		for v, err := range objects {
			if (err != nil || holds(v.object)) && !yield(v, err) {
				return
			}
		}
	}
}

// membersOf returns the objects in the array that is a member of an answer.
func membersOf[T any](answer []byte, name string) ([]found[T], error) {
	var object map[string]json.RawMessage
	var array []json.RawMessage
	err := json.Unmarshal(answer, &object)
	if err == nil {
		err = json.Unmarshal(object[name], &array)
	}
	all := make([]found[T], len(array))
	for i := range array {
		all[i].raw = array[i]
		err = errors.Join(err, json.Unmarshal(array[i], &all[i].object))
	}
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	return all, nil
}

// each returns a sequence of the objects of a slice.
func each[T any](all []found[T]) iter.Seq2[found[T], error] {
	return func(yield func(found[T], error) bool) {
		for _, v := range all {
			if !yield(v, nil) {
				return
			}
		}
	}
}
