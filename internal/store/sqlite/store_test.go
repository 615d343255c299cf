package sqlite

import (
	"context"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/storetest"
)

func TestLife(t *testing.T) {
	s := openTest(t)
	ctx := context.Background()
	if err := s.Join(ctx, testNode, testTime, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	in := acceptance(testEndpoint, testTime, []byte("hello"))
	in.Event.IdempotencyKey = []byte("k")
	got, err := s.Accept(ctx, in)
	if err != nil || got != (store.Accepted{EventID: in.Event.ID}) {
		t.Fatalf("Accept = %+v, %v", got, err)
	}
	again := acceptance(testEndpoint, testTime, []byte("other"))
	again.Event.IdempotencyKey = []byte("k")
	got, err = s.Accept(ctx, again)
	if err != nil || got != (store.Accepted{EventID: in.Event.ID, Duplicate: true}) {
		t.Fatalf("Accept again = %+v, %v", got, err)
	}
	held, err := s.Held(ctx, testNode)
	if err != nil || len(held) != 1 || held[0] != in.Delivery {
		t.Fatalf("Held = %+v, %v", held, err)
	}
	if err := s.Complete(ctx, answer(t, in.Delivery, 500, testTime)); err != nil {
		t.Fatal(err)
	}
	backlog, err := s.Backlog(ctx)
	if err != nil || len(backlog) != 1 || !backlog[0].DueAt.Equal(testTime.Add(time.Second)) {
		t.Fatalf("Backlog = %+v, %v", backlog, err)
	}
	claimed, err := s.Claim(ctx, testNode, testTime.Add(time.Second), []store.Want{{EndpointID: testEndpoint, Limit: 10}}, 1000)
	if err != nil || len(claimed) != 1 || string(claimed[0].Event.Body) != "hello" {
		t.Fatalf("Claim = %+v, %v", claimed, err)
	}
	if err := s.Complete(ctx, answer(t, in.Delivery, 200, testTime)); kapsel.CodeOf(err) != kapsel.Conflict {
		t.Fatalf("Complete under the old token = %v", err)
	}
	if err := s.Join(ctx, kapsel.NewNodeID(testTime), testTime, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	moved, err := s.TakeOver(ctx, testTime.Add(2*time.Second), 10)
	if err != nil || moved != 1 {
		t.Fatalf("TakeOver = %d, %v", moved, err)
	}
}

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return openTest(t) })
}
