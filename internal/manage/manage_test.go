package manage_test

import (
	"context"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/manage"
)

// open holds the methods of Manager that need no caller, each with why.
var open = map[string]string{
	"SigningKeys":      "what it returns is public",
	"Describe":         "it describes what a use case has returned",
	"AuditHead":        "heads of logs are public",
	"AuditKeys":        "the keys that verify them are public",
	"AuditInclusion":   "proofs are public, and show hashes only",
	"AuditConsistency": "proofs are public, and show hashes only",
	"AuditTile":        "the hashes of a log are public",
	"PortalSites":      "they are in a header of a page that anyone gets",
	"Portal":           "its own methods ask, or use use cases that do",
}

// TestRights calls every use case as nobody and, if it changes something, as a caller who may only read.
// Each must refuse before it looks at the store; there is none here. It checks nothing of a new
// use case but that, so a use case cannot forget to ask the caller.
func TestRights(t *testing.T) {
	m := reflect.ValueOf(manage.New(manage.Config{Store: struct{ manage.Store }{}, Clock: time.Now}))
	reader := access.Caller{Right: access.Read, Tenant: kapsel.NewTenantID(time.Now())}
	called := 0
	for i := range m.NumMethod() {
		name := m.Type().Method(i).Name
		if open[name] != "" || m.Type().Method(i).Type.NumIn() == 1 {
			continue
		}
		changes := false
		for _, verb := range []string{"Create", "Put", "Update", "Delete", "Pause", "Resume", "Reset", "Rotate", "Test", "Cancel", "Retry", "Move", "ReplayEvent", "Preview", "Publish", "Revoke", "Erase", "Acknowledge", "ReportBooks"} {
			changes = changes || strings.HasPrefix(name, verb)
		}
		for _, c := range []struct {
			access.Caller
			want kapsel.Code
		}{{access.Caller{}, kapsel.Unauthorized}, {access.Caller{Right: access.Write}, kapsel.Unauthorized}, {reader, kapsel.Forbidden}} {
			if c.want == kapsel.Forbidden && !changes {
				continue
			}
			if got := refusal(t, name, m.Method(i), c.Caller); got != c.want {
				t.Errorf("%s of %+v is %s, want %s", name, c.Caller, got, c.want)
			}
			called++
		}
	}
	if called < 50 {
		t.Errorf("only %d calls were made", called)
	}
}

// refusal calls a use case with zero values, and returns the code of its error.
func refusal(t *testing.T, name string, method reflect.Value, c access.Caller) kapsel.Code {
	t.Helper()
	defer func() {
		if p := recover(); p != nil {
			t.Errorf("%s goes on without asking the caller: %v", name, p)
		}
	}()
	var in []reflect.Value
	for i := range method.Type().NumIn() {
		switch p := method.Type().In(i); p {
		case reflect.TypeFor[context.Context]():
			in = append(in, reflect.ValueOf(t.Context()))
		case reflect.TypeFor[access.Caller]():
			in = append(in, reflect.ValueOf(c))
		case reflect.TypeFor[manage.AppRef](): // an empty reference is no filter
			in = append(in, reflect.ValueOf(manage.AppRef{Ref: "shop"}))
		default:
			in = append(in, reflect.Zero(p))
		}
	}
	out := method.Call(in)
	err, _ := out[len(out)-1].Interface().(error)
	return kapsel.CodeOf(err)
}
