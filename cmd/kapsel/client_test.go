package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kapsel-hq/kapsel/internal/secret"
)

// TestAdminKeyFile tries where the key comes from when none is given.
func TestAdminKeyFile(t *testing.T) {
	for _, test := range []struct {
		name     string
		files    []string // folders with an admin.key, which holds the folder's name
		settings clientSettings
		key      string
		refused  string // in the error
	}{
		{"none", nil, clientSettings{}, "", "no admin.key can be read in kapsel-data or kapsel-dev"},
		{"data", []string{"kapsel-data"}, clientSettings{}, "kapsel-data", ""},
		{"dev", []string{"kapsel-dev"}, clientSettings{}, "kapsel-dev", ""},
		{"both", []string{"kapsel-data", "kapsel-dev"}, clientSettings{}, "", "both kapsel-data/admin.key and kapsel-dev/admin.key"},
		{"the database's", []string{"kapsel-data", "mine"}, clientSettings{DatabaseURL: "sqlite:mine/k.db"}, "mine", ""},
		{"not beside the database", []string{"kapsel-data"}, clientSettings{DatabaseURL: "sqlite:mine/k.db"}, "", "no admin.key can be read in mine"},
		{"localhost", []string{"kapsel-data"}, clientSettings{Server: "https://localhost:8443"}, "kapsel-data", ""},
		{"IPv6", []string{"kapsel-data"}, clientSettings{Server: "http://[::1]:8080"}, "kapsel-data", ""},
		{"another machine", []string{"kapsel-data"}, clientSettings{Server: "https://kapsel.example"}, "", "another machine"},
		{"another machine, dressed up", []string{"kapsel-data"}, clientSettings{Server: "http://localhost@kapsel.example"}, "", "another machine"},
		{"another address", []string{"kapsel-data"}, clientSettings{Server: "http://10.0.0.1:8080"}, "", "another machine"},
		{"of the environment", []string{"kapsel-data"}, clientSettings{AdminKey: secret.NewText("admin")}, "admin", ""},
		{"of the environment, beside PostgreSQL", nil, clientSettings{AdminKey: secret.NewText("admin"), DatabaseURL: "postgres://localhost/k"}, "admin", ""},
		{"of the environment, another machine", nil, clientSettings{AdminKey: secret.NewText("admin"), Server: "https://kapsel.example"}, "", "another machine"},
		{"beside PostgreSQL", []string{"kapsel-data"}, clientSettings{DatabaseURL: "postgres://localhost/k"}, "", "with PostgreSQL set it, or KAPSEL_ADMIN_KEY"},
		{"given", []string{"kapsel-data"}, clientSettings{Server: "https://kapsel.example", APIKey: secret.NewText("given")}, "given", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			for _, folder := range test.files {
				if err := os.Mkdir(folder, 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(folder, "admin.key"), []byte(folder+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if test.settings.Server == "" {
				test.settings.Server = "http://127.0.0.1:8080"
			}
			key, _, err := test.settings.keyInForce()
			if key != test.key {
				t.Errorf("the key is %q", key)
			}
			if test.refused == "" && err != nil || test.refused != "" && (err == nil || !strings.Contains(err.Error(), test.refused)) {
				t.Errorf("the error is %v", err)
			}
		})
	}
}

func TestClean(t *testing.T) {
	for text, want := range map[string]string{
		"plain – ü 漢":          "plain – ü 漢",
		"\x1b[31mred\a\r\n\t":  `\x1b[31mred\x07\x0d\x0a\x09`,
		"\u009b1m \u202eright": `\u009b1m \u202eright`,
		"bad \xff":             "bad \ufffd",
	} {
		if got := clean(text); got != want {
			t.Errorf("clean(%q) is %q", text, got)
		}
	}
}
