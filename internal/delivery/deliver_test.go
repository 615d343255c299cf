package delivery_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/sim"
)

// in runs a test in a bubble, with a world.
func in(t *testing.T, o sim.Options, test func(t *testing.T, w *sim.World)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, sim.New(t, o)) })
}

// balanced judges a world at rest: nothing held, nothing due, all books at zero. Claims that were
// begun before the last delivery ended may still be under way, so balanced lets them end.
func balanced(t *testing.T, p *sim.Process) {
	t.Helper()
	synctest.Wait()
	for range 100 {
		if p.Engine.Books() == nil {
			break
		}
		p.World.Pass(100 * time.Millisecond)
	}
	for _, off := range p.Engine.Books() {
		t.Errorf("the books are off: %s", off)
	}
	(&sim.Judge{World: p.World}).Check()
}

func TestDelivered(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", sim.Always(200))
		ep := w.NewEndpoint(d, nil)
		p := w.Start()
		id := p.Event(ep, `{"n":1}`)
		w.Pass(10 * time.Millisecond)
		if got := w.Delivery(id); got.Status != kapsel.Delivered || got.Attempts != 1 || got.Claims != 1 {
			t.Fatalf("the delivery is %+v", got)
		}
		if got := d.Requests(); len(got) != 1 || string(got[0].Body) != `{"n":1}` {
			t.Fatalf("on the wire: %d requests", len(got))
		}
		balanced(t, p)
	})
}
