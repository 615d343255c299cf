package store

import (
	"log/slog"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// Unread holds, of the deliveries that a claim took, the events that the database cannot give back, and why:
// a page of it is damaged, a row is gone, or somebody has changed one.
type Unread map[kapsel.EventID]error

// UnreadWait is how long a delivery waits whose event could not be read.
const UnreadWait = time.Minute

// Split returns the claimed deliveries whose events were read, and those that the store must give back, so
// that nothing else waits for them. It logs the latter.
func (u Unread) Split(claimed []Claimed, now time.Time, log *slog.Logger) (read []Claimed, back []kapsel.Delivery) {
	if len(u) == 0 {
		return claimed, nil
	}
	for _, c := range claimed {
		why := u[c.Delivery.EventID]
		if why == nil {
			read = append(read, c)
			continue
		}
		log.Error("an event cannot be read from the database, so its delivery waits; restore the event, or cancel the delivery",
			"delivery_id", c.Delivery.ID.String(), "event_id", c.Delivery.EventID.String(), "endpoint_id", c.Delivery.EndpointID.String(), "error", why)
		c.Delivery.DueAt = now.Add(UnreadWait)
		back = append(back, c.Delivery)
	}
	return read, back
}
