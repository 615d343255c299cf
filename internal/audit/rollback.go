package audit

import (
	"context"

	"github.com/kapsel-hq/kapsel"
)

// EndLogs ends all logs, and forgets what was published of them; new ones begin with the next attempts. It
// is for a store that is older than what was published: a restored backup, or a database that was copied
// and is used again instead of its copy. HighWater does not know what the copy has published, so it cannot
// tell which logs are behind. Callers must not have called Run yet.
func (w *Writer) EndLogs(ctx context.Context) error {
	logs, err := w.cfg.Store.Logs(ctx, kapsel.LogID{}, headsAtOnce)
	for ; err == nil && len(logs) > 0; logs, err = w.cfg.Store.Logs(ctx, logs[len(logs)-1].ID, headsAtOnce) {
		for i := range logs {
			if l := &logs[i]; l.ClosedAt.IsZero() {
				if err := w.cfg.Store.CloseLog(ctx, l.ID, w.cfg.Now()); err != nil {
					return err
				}
				w.cfg.Log.Warn("the audit log ends, and a new one begins, because the database may be older than what was published", "log", l.ID.String(), "leaves", l.Size)
			}
		}
	}
	if err != nil || w.cfg.HighWater == nil {
		return err
	}
	return w.cfg.HighWater.Forget()
}
