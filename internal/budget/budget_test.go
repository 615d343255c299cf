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
	body := b.Body(10 << 20)
	if body == nil {
		t.Fatal("one delivery's body does not fit")
	}
	if b.Body(1) != nil {
		t.Error("a second body fits")
	}
	other := body.Share()
	body.Release()
	b.ReturnRequest(1 << 20)
	if n := b.Used(); n != 10<<20 {
		t.Errorf("%d bytes are held of a body that one of two deliveries still holds", n)
	}
	other.Release()
	if n := b.Used(); n != 0 {
		t.Errorf("%d bytes are held at the end", n)
	}
	if b.Body(300<<10) == nil || b.Body(300<<10) != nil {
		t.Error("deliveries hold another share than half")
	}
	n, done, ok := b.Bodies(1 << 20)
	if n != 212<<10 || !ok {
		t.Errorf("%d bytes are free for deliveries, want %d", n, 212<<10)
	}
	if _, _, ok := b.Bodies(1 << 20); ok {
		t.Error("more is reserved than there is")
	}
	b.Have(100 << 10)
	done()
	if n := b.Used(); n != 400<<10 {
		t.Errorf("%d bytes are held, want %d", n, 400<<10)
	}
}

// TestBudget_Readers checks that readers hold at most a quarter, that one alone may hold more, and that what
// they hold is missing to others.
func TestBudget_Readers(t *testing.T) {
	b := New(1 << 20)
	large, ok := b.Read(512 << 10)
	if !ok {
		t.Fatal("one reader's body does not fit")
	}
	if _, ok := b.Read(1); ok {
		t.Error("a second one fits beside it")
	}
	if b.Request(1) && b.Request(300<<10) {
		t.Error("a request gets what a reader holds")
	}
	large()
	large()
	if n := b.Used(); n != 1 {
		t.Errorf("%d bytes are held, want 1", n)
	}
	for range 2 {
		if _, ok := b.Read(128 << 10); !ok {
			t.Error("readers have less than a quarter")
		}
	}
	if _, ok := b.Read(1); ok {
		t.Error("readers have more than a quarter")
	}
}
