package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// checkName is the name of the value of the instance that holds the result of the last check.
const checkName = "audit_check"

// LastCheck is the result of the check of all logs that ran last.
type LastCheck struct {
	At time.Time `json:"at"` // when it began
	// Findings holds the first finding of each log that has one.
	Findings map[kapsel.LogID]string `json:"findings,omitempty"`
}

// ReadLastCheck returns the result of the last check; false if there was none.
func ReadLastCheck(ctx context.Context, from Meta) (c LastCheck, ok bool, err error) {
	value, err := from.Meta(ctx, checkName)
	if kapsel.CodeOf(err) == kapsel.NotFound {
		return c, false, nil
	}
	if err == nil {
		err = json.Unmarshal(value, &c)
	}
	return c, err == nil, err
}

// Remember makes the result that of the last check.
func (c LastCheck) Remember(ctx context.Context, in Meta) error {
	value, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("write the result of the check: %w", err)
	}
	was, err := in.Meta(ctx, checkName)
	if kapsel.CodeOf(err) == kapsel.NotFound {
		was, err = in.SetMeta(ctx, checkName, value)
	}
	if err != nil || string(was) == string(value) {
		return err
	}
	return in.ReplaceMeta(ctx, checkName, was, value)
}
