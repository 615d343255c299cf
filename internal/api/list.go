package api

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/url"

	"github.com/kapsel-hq/kapsel/internal/store"
)

// PageQuery holds the parameters that every list has. (huma finds parameters in embedded
// structs only if their types are exported.)
type PageQuery struct {
	Limit  int    `query:"limit" default:"50" minimum:"1" maximum:"200" doc:"How many to return at most"`
	Cursor string `query:"cursor" doc:"next_cursor of the page before"`
}

// list holds one page of a list, newest first.
type list[T any] struct {
	Data       []T     `json:"data"`
	NextCursor *string `json:"next_cursor" doc:"The cursor of the next page; null on the last. A page before the last may have fewer than limit, or none"`
}

// paginate returns the answer to a list request. It opens the cursor and reads one row more than
// the page has; if that row exists, the cursor of the next page is made from the ID of the page's
// last row. paginate fails if the cursor is not one of this list, or if read or view fails.
func paginate[ID ~[16]byte, Row, View any](ctx context.Context, q PageQuery, read func(store.Page[ID]) ([]Row, error), id func(Row) ID, view func(Row) (View, error)) (*out[list[View]], error) {
	return paginateUntil(ctx, q, func(p store.Page[ID]) (rows []Row, reached ID, err error) {
		rows, err = read(p)
		return rows, reached, err
	}, id, view)
}

// paginateUntil is paginate for a list that may end a page early: then read also returns the ID that the next
// page begins before.
func paginateUntil[ID ~[16]byte, Row, View any](ctx context.Context, q PageQuery, read func(store.Page[ID]) ([]Row, ID, error), id func(Row) ID, view func(Row) (View, error)) (*out[list[View]], error) {
	c := callOf(ctx)
	page := store.Page[ID]{Limit: q.Limit + 1}
	if q.Cursor != "" {
		before, err := c.api.openCursor(c, q.Cursor)
		if err != nil {
			return nil, err
		}
		page.Before = ID(before)
	}
	rows, next, err := read(page)
	if err != nil {
		return nil, err
	}
	answer := list[View]{Data: make([]View, 0, len(rows))}
	if len(rows) > q.Limit {
		rows = rows[:q.Limit]
		next = id(rows[len(rows)-1])
	}
	if next != (ID{}) {
		answer.NextCursor = new(c.api.cursor(c, [16]byte(next)))
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

// cursorMAC is the length of the HMAC in a cursor, in bytes. A cursor holds the ID of the last row
// of a page, then an HMAC over the ID, the caller's tenant, the path and the filter. Therefore a
// cursor is refused by every other list.
const cursorMAC = 16

func (a *api) cursor(c *call, last [16]byte) string {
	return base64.RawURLEncoding.EncodeToString(append(last[:], a.signCursor(c, last)...))
}

func (a *api) openCursor(c *call, text string) (last [16]byte, err error) {
	const size = len(last) + cursorMAC
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != size || len(text) != base64.RawURLEncoding.EncodedLen(size) { // the decoder ignores line ends
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
	filter, _ := url.ParseQuery(c.r.URL.RawQuery) // the gate has checked the query
	filter.Del("cursor")
	filter.Del("limit")
	mac := hmac.New(sha256.New, a.cursors)
	mac.Write(last[:])
	mac.Write(c.caller.Tenant[:])
	mac.Write([]byte(c.r.URL.Path))
	mac.Write([]byte{0}) // a path holds no NUL, so the parts cannot run into each other
	mac.Write([]byte(filter.Encode()))
	return mac.Sum(nil)[:cursorMAC]
}
