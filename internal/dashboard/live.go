package dashboard

import (
	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

func (d *Dashboard) liveEvents(p *page, f store.EventFilter, before kapsel.EventID) string { return "" }
