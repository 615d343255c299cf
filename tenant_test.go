package kapsel_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kapsel-hq/kapsel"
)

func TestTenantLimits(t *testing.T) {
	free := kapsel.Plans["free"]
	own, long := 3, 400*24*time.Hour
	mixed := free
	mixed.Endpoints, mixed.Retention = &own, &long
	for _, tt := range []struct {
		name      string
		tenant    kapsel.Tenant
		want      kapsel.Limits
		retention time.Duration
	}{
		{"none", kapsel.Tenant{}, kapsel.Limits{}, 2160 * time.Hour},
		{"the default plan has none", kapsel.Tenant{Plan: kapsel.DefaultPlan}, kapsel.Limits{}, 2160 * time.Hour},
		{"the plan's", kapsel.Tenant{Plan: "free"}, free, *free.Retention},
		{"its own, else the plan's", kapsel.Tenant{Plan: "free", Limits: kapsel.Limits{Endpoints: &own, Retention: &long}}, mixed, long},
	} {
		if d := cmp.Diff(tt.want, tt.tenant.Effective()); d != "" {
			t.Errorf("%s (-want +got)\n%s", tt.name, d)
		}
		if got := tt.tenant.Retention(); got != tt.retention {
			t.Errorf("%s: retention is %v, want %v", tt.name, got, tt.retention)
		}
	}
}

func TestKeyValid(t *testing.T) {
	for _, tt := range []struct {
		name string
		key  kapsel.Key
		want bool
	}{
		{"for ever", kapsel.Key{}, true},
		{"before it expires", kapsel.Key{ExpiresAt: noon.Add(1)}, true},
		{"when it expires", kapsel.Key{ExpiresAt: noon}, false},
		{"revoked", kapsel.Key{RevokedAt: noon}, false},
		{"revoked before it expires", kapsel.Key{RevokedAt: noon, ExpiresAt: noon.Add(time.Hour)}, false},
	} {
		if got := tt.key.Valid(noon); got != tt.want {
			t.Errorf("%s: valid is %v", tt.name, got)
		}
	}
}
