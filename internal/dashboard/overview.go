package dashboard

import "github.com/kapsel-hq/kapsel/internal/access"

func (d *Dashboard) overview() {
	d.get("/{$}", access.Read, func(p *page) (result, error) {
		return p.show("/", "Overview", overviewPage(p))
	})
}
