package dashboard

import (
	"cmp"
	"net/http"
	"slices"
	"strings"

	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/signature"
)

// guides registers the pages that say what to paste where in a provider's console.
func (d *Dashboard) guides() {
	d.get("/providers", access.Read, func(p *page) (result, error) {
		list := signature.Describe()
		slices.SortFunc(list, func(a, b signature.Provider) int {
			return cmp.Compare(strings.ToLower(a.Title), strings.ToLower(b.Title))
		})
		return p.show("/providers", "Connect a provider", providersPage(p, list))
	})
	d.get("/providers/{name}", access.Read, func(p *page) (result, error) {
		about, ok := providerOf(p.params("name"))
		if !ok {
			return result{}, errNoPage
		}
		return p.show("/providers", "Connect "+about.Title, providerPage(p, about))
	})
	// The guide alone, for a form in which another provider is chosen.
	d.mux.HandleFunc("GET /providers/guide", func(w http.ResponseWriter, r *http.Request) {
		p, err := d.open(w, r, access.Read)
		if err != nil {
			d.fail(w, r, p, err)
			return
		}
		d.render(w, r, http.StatusOK, guideOf(p, p.query.Get("verification.provider"), ""))
	})
}

// providerOf returns what is known of a provider.
func providerOf(name string) (signature.Provider, bool) {
	list := signature.Describe()
	i := slices.IndexFunc(list, func(p signature.Provider) bool { return p.Name == name })
	if i < 0 {
		return signature.Provider{}, false
	}
	return list[i], true
}

// ticked returns a text in which names of settings stand between back quotes, in parts: each second one is a
// name.
func ticked(text string) []string { return strings.Split(text, "`") }
