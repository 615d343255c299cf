package delivery

import (
	"fmt"
	"reflect"
	"slices"

	"github.com/kapsel-hq/kapsel"
)

// Books returns the counts of the engine that are not 0. All are 0 when no exchange runs, no delivery is held
// and none is due.
func (e *Engine) Books() (off []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if n := len(e.holds.tokens); n != 0 {
		off = append(off, fmt.Sprintf("held tokens are %d", n))
	}
	if n := e.Budget.Used(); n != 0 {
		off = append(off, fmt.Sprintf("bytes of bodies are %d", n))
	}
	off = append(off, counts("the keeper: ", e.gates, "most", "agenda")...)
	keeper := reflect.ValueOf(e.gates).Elem()
	for _, line := range []string{"line", "turns"} {
		if n := keeper.FieldByName(line).FieldByName("in").Len(); n != 0 && !(e.stopping && line == "turns") {
			off = append(off, fmt.Sprintf("gates in %s are %d", line, n))
		}
	}
	if n := keeper.FieldByName("slow").FieldByName("running").Len(); n != 0 {
		off = append(off, fmt.Sprintf("gates with exchanges are %d", n))
	}
	for _, id := range e.gates.Gates() {
		g := e.gates.Gate(id)
		off = append(off, counts("gate "+g.Endpoint().Name+": ", g, "epoch", "earned", "notes", "index")...)
		for _, flag := range []string{"winning", "starving", "parked"} {
			if reflect.ValueOf(g).Elem().FieldByName(flag).Bool() {
				off = append(off, "gate "+g.Endpoint().Name+" is "+flag)
			}
		}
	}
	return off
}

// counts returns the counts in a struct of package gate that are not 0: the numbers and the lengths of
// lists, except for some fields. It reads unexported fields, so that package gate need not export its
// counts for tests.
func counts(name string, of any, except ...string) (off []string) {
	v := reflect.ValueOf(of).Elem()
	for i := range v.NumField() {
		n := 0
		switch f := v.Field(i); f.Kind() {
		case reflect.Int:
			n = int(f.Int())
		case reflect.Slice:
			n = f.Len()
		}
		if field := v.Type().Field(i).Name; n != 0 && !slices.Contains(except, field) {
			off = append(off, fmt.Sprintf("%s%s is %d", name, field, n))
		}
	}
	return off
}

// Earned returns how many exchanges at once the endpoint's destination has earned, and how many run.
func (e *Engine) Earned(name string) (earned, running int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, id := range e.gates.Gates() {
		if g := e.gates.Gate(id); g.Endpoint().Name == name {
			v := reflect.ValueOf(g).Elem()
			return int(v.FieldByName("earned").Int()), int(v.FieldByName("running").Int())
		}
	}
	return 0, 0
}

// Busy returns how many workers are in use.
func (e *Engine) Busy() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.gates.Busy()
}

// Leased reports whether the node's lease is certain.
func (e *Engine) Leased() bool {
	_, certain := e.node.Certain()
	return certain
}

// Node returns the node's present ID.
func (e *Engine) Node() kapsel.NodeID { return e.node.ID() }

// Kept counts the gates and recipients in memory.
func (e *Engine) Kept() (gates, recipients int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.gates.Gates()), e.recipients.Len()
}
