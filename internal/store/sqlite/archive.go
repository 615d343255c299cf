package sqlite

import (
	"context"
	"errors"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

var errTODO = errors.New("not built yet")

func (s *Store) Event(ctx context.Context, tenant kapsel.TenantID, id kapsel.EventID) (store.EventRecord, error) {
	return store.EventRecord{}, errTODO
}
func (s *Store) ListEvents(ctx context.Context, tenant kapsel.TenantID, f store.EventFilter, p store.Page[kapsel.EventID]) ([]store.EventRecord, error) {
	return nil, errTODO
}
func (s *Store) Delivery(ctx context.Context, tenant kapsel.TenantID, id kapsel.DeliveryID) (kapsel.Delivery, error) {
	return kapsel.Delivery{}, errTODO
}
func (s *Store) ListDeliveries(ctx context.Context, tenant kapsel.TenantID, f store.DeliveryFilter, p store.Page[kapsel.DeliveryID]) ([]kapsel.Delivery, error) {
	return nil, errTODO
}
func (s *Store) MoveDelivery(ctx context.Context, tenant kapsel.TenantID, id kapsel.DeliveryID, h kapsel.Happening, now time.Time) (kapsel.Delivery, error) {
	return kapsel.Delivery{}, errTODO
}
func (s *Store) Replay(ctx context.Context, tenant kapsel.TenantID, event kapsel.EventID, of kapsel.DeliveryID, now time.Time) (kapsel.Delivery, error) {
	return kapsel.Delivery{}, errTODO
}
func (s *Store) Attempt(ctx context.Context, tenant kapsel.TenantID, id kapsel.AttemptID) (kapsel.Attempt, error) {
	return kapsel.Attempt{}, errTODO
}
func (s *Store) ListAttempts(ctx context.Context, tenant kapsel.TenantID, id kapsel.DeliveryID, after int, limit int) ([]kapsel.Attempt, error) {
	return nil, errTODO
}
func (s *Store) CancelWaiting(ctx context.Context, endpoint kapsel.EndpointID, now time.Time, limit int) (int, error) {
	return 0, errTODO
}
func (s *Store) DeleteFinished(ctx context.Context, tenant kapsel.TenantID, before time.Time, limit int) (int, error) {
	return 0, errTODO
}
func (s *Store) DeleteExpiredKeys(ctx context.Context, now time.Time, limit int) (int, error) {
	return 0, errTODO
}
func (s *Store) QueueDepth(ctx context.Context, now time.Time, atMost int) (store.QueueDepth, error) {
	return store.QueueDepth{}, errTODO
}
func (s *Store) BacklogOf(ctx context.Context, endpoint kapsel.EndpointID, atMost int) (int, time.Time, error) {
	return 0, time.Time{}, errTODO
}
