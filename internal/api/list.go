package api

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/url"

	"github.com/kapsel-hq/kapsel/internal/store"
)

// PageQuery are the parameters that every list has. (huma finds parameters in embedded
// structs only when their types are exported.)
type PageQuery struct {
	Limit  int    `query:"limit" default:"50" minimum:"1" maximum:"200" doc:"How many to return at most"`
	Cursor string `query:"cursor" doc:"next_cursor of the page before"`
}

// list is a page of a list, newest first.
type list[T any] struct {
	Data       []T     `json:"data"`
	NextCursor *string `json:"next_cursor" doc:"The cursor of the next page; null on the last"`
}

// paginate answers a list request: it opens the cursor, reads one row more than the page
// has, and makes the cursor of the next page of the last row's id.
func paginate[ID ~[16]byte, Row, View any](ctx context.Context, q PageQuery, read func(store.Page[ID]) ([]Row, error), id func(Row) ID, view func(Row) (View, error)) (*out[list[View]], error) {
	c := callOf(ctx)
	page := store.Page[ID]{Limit: q.Limit + 1}
	if q.Cursor != "" {
		before, err := c.api.openCursor(c, q.Cursor)
		if err != nil {
			return nil, err
		}
		page.Before = ID(before)
	}
	rows, err := read(page)
	if err != nil {
		return nil, err
	}
	answer := list[View]{Data: make([]View, 0, len(rows))}
	if len(rows) > q.Limit {
		rows = rows[:q.Limit]
		next := c.api.cursor(c, [16]byte(id(rows[len(rows)-1])))
		answer.NextCursor = &next
	}
	for _, row := range rows {
		v, err := view(row)
		if err != nil {
			return nil, err
		}
		answer.Data = append(answer.Data, v)
	}
	return &out[list[View]]{answer}, nil
}

// A cursor is the id of the last row of a page and 16 bytes of an HMAC over it and over
// what the list is of: the path, the caller and the filter. It opens no other list.
const cursorMAC = 16

func (a *api) cursor(c *call, last [16]byte) string {
	return base64.RawURLEncoding.EncodeToString(append(last[:], a.signCursor(c, last)...))
}

func (a *api) openCursor(c *call, text string) (last [16]byte, err error) {
	const size = len(last) + cursorMAC
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != size || len(text) != base64.RawURLEncoding.EncodedLen(size) { // decoding passes over line ends
		return last, errCursor
	}
	last = [16]byte(b)
	if !hmac.Equal(b[len(last):], a.signCursor(c, last)) {
		return last, errCursor
	}
	return last, nil
}

var errCursor = unreadable(field("cursor", "is none of this list; begin again without it"))

func (a *api) signCursor(c *call, last [16]byte) []byte {
	filter, _ := url.ParseQuery(c.r.URL.RawQuery) // the gate read it before
	filter.Del("cursor")
	filter.Del("limit")
	mac := hmac.New(sha256.New, a.cursors)
	mac.Write(last[:])
	mac.Write(c.caller.tenant[:])
	mac.Write([]byte(c.r.URL.Path))
	mac.Write([]byte{0}) // a path holds no NUL, so the parts cannot run into each other
	mac.Write([]byte(filter.Encode()))
	return mac.Sum(nil)[:cursorMAC]
}
