package budget

import "testing"

func TestBudget(t *testing.T) {
	b := New(1 << 20)
	if !b.Request(2 << 20) {
		t.Error("one body does not fit")
	}
	if b.Request(1) {
		t.Error("a second one fits beside a body above the limit")
	}
	b.ReturnRequest(2 << 20)

	// Large bodies leave a quarter to small ones.
	if !b.Request(512 << 10) {
		t.Fatal("half of the budget is not free")
	}
	if b.Request(300 << 10) {
		t.Error("large bodies take the last quarter")
	}
	if b.Grow(64<<10, 300<<10) {
		t.Error("a body grows into the last quarter")
	}
	for range 8 {
		if !b.Request(64 << 10) {
			t.Error("a small body does not fit")
		}
	}
	if b.Request(1) {
		t.Error("more fits than there is")
	}
	if !b.Delivery(10 << 20) {
		t.Error("one delivery does not fit")
	}
	if b.Delivery(1) {
		t.Error("a second delivery fits")
	}
	b.Adjust(-10 << 20)
	b.ReturnRequest(1 << 20)
	if n := b.Used(); n != 0 {
		t.Errorf("%d bytes are held at the end", n)
	}
	if !b.Delivery(300<<10) || b.Delivery(300<<10) {
		t.Error("deliveries hold another share than half")
	}
	if n := b.FreeForDeliveries(); n != 212<<10 {
		t.Errorf("%d bytes are free for deliveries, want %d", n, 212<<10)
	}
}
