package audit

import (
	"context"
	"log/slog"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// EndLogs ends all logs of a store; new ones begin with the next attempts. It is for a store that is older
// than what was published: a restored backup, or a database that was copied and is used again instead of
// its copy. HighWater does not know what the copy has published, so it cannot tell which logs are behind.
func EndLogs(ctx context.Context, from store.Journal, now time.Time, log *slog.Logger) error {
	logs, err := from.Logs(ctx, kapsel.LogID{}, headsAtOnce)
	for ; err == nil && len(logs) > 0; logs, err = from.Logs(ctx, logs[len(logs)-1].ID, headsAtOnce) {
		for i := range logs {
			if l := &logs[i]; l.ClosedAt.IsZero() {
				if err := from.CloseLog(ctx, l.ID, now); err != nil {
					return err
				}
				log.Warn("the audit log ends, and a new one begins, because the database may be older than what was published", "log", l.ID.String(), "leaves", l.Size)
			}
		}
	}
	return err
}
