package client

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// verbatim is a body that has JSON of the caller's, which encoding/json would write anew.
type verbatim interface{ verbatim() ([]byte, error) }

// verbatim writes the event with its data as it is: the server keeps and sends those bytes.
func (in PublishInput) verbatim() ([]byte, error) {
	data := in.Data
	if data != nil && !json.Valid(data) {
		return nil, errors.New("data is not JSON")
	}
	in.Data = nil
	text, err := json.Marshal(in)
	if err != nil || data == nil {
		return text, err
	}
	// There is a member before it: type is always written.
	return slices.Concat(bytes.TrimSuffix(text, []byte("}")), []byte(`,"data":`), data, []byte("}")), nil
}

func (in PublishBatchInput) verbatim() ([]byte, error) {
	events := make([][]byte, len(in.Events))
	for i, e := range in.Events {
		var err error
		if events[i], err = e.verbatim(); err != nil {
			return nil, fmt.Errorf("events[%d]: %w", i, err)
		}
	}
	return slices.Concat([]byte(`{"events":[`), bytes.Join(events, []byte(",")), []byte("]}")), nil
}
