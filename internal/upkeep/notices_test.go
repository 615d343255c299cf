package upkeep

import (
	"testing"

	"github.com/kapsel-hq/kapsel"
)

// TestOutbox checks that the messages that wait have a bound, and that a tenant with many loses its own.
func TestOutbox(t *testing.T) {
	many, few := kapsel.TenantID{1}, kapsel.TenantID{2}
	var n notices
	add := func(tenant kapsel.TenantID, count int) {
		for range count {
			n.Outbox = append(n.Outbox, message{notice: notice{condition: condition{Tenant: tenant}}})
		}
	}
	add(few, 10)
	add(many, mostOutbox)
	add(few, 10)
	lost := n.trim()
	if len(lost) != 20 || len(n.Outbox) != mostOutbox {
		t.Fatalf("%d are given up, %d are left", len(lost), len(n.Outbox))
	}
	for _, m := range lost {
		if m.Tenant != many {
			t.Error("a tenant with few messages loses one")
		}
	}
	if lost := n.trim(); lost != nil {
		t.Errorf("%d more are given up", len(lost))
	}
}
