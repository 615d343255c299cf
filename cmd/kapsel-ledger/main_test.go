package main

import (
	"bytes"
	"strings"
	"testing"
)

// TestSettings checks that each setting that is wrong is named, and nothing is begun.
func TestSettings(t *testing.T) {
	for _, name := range []string{"KAPSEL_URL", "KAPSEL_API_KEY", "KAPSEL_ADMIN_KEY", "TIGERBEETLE_ADDRESSES", "TIGERBEETLE_CLUSTER_ID", "KAPSEL_LEDGER_CLIENT"} {
		t.Setenv(name, "")
	}
	good := map[string]string{"--api-key": strings.Repeat("k", 40), "--cluster": "1", "--client": "main_test.go", "--url": "http://127.0.0.1:1"}
	for _, c := range []struct{ flag, value, want string }{
		{"--api-key", "", "KAPSEL_ADMIN_KEY"},
		{"--cluster", "", "TIGERBEETLE_CLUSTER_ID"},
		{"--cluster", "0", "TIGERBEETLE_CLUSTER_ID"},
		{"--cluster", "one", "TIGERBEETLE_CLUSTER_ID"},
		{"--cluster", "340282366920938463463374607431768211456", "TIGERBEETLE_CLUSTER_ID"},
		{"--client", "", "KAPSEL_LEDGER_CLIENT"},
		{"--client", "nowhere.so", "KAPSEL_LEDGER_CLIENT"},
		{"--url", "ftp://x", "KAPSEL_URL"},
		{"--every", "1s", "--every"},
	} {
		var args []string
		for flag, value := range good {
			if flag == c.flag {
				value = c.value
			}
			args = append(args, flag+"="+value)
		}
		if good[c.flag] == "" {
			args = append(args, c.flag+"="+c.value)
		}
		var out, errOut bytes.Buffer
		if code := run(args, &out, &errOut); code != 2 || !strings.Contains(errOut.String(), c.want) || strings.Contains(errOut.String(), good["--api-key"]) {
			t.Errorf("%s=%q: exit code %d, %s", c.flag, c.value, code, errOut.String())
		}
	}
	for text, last := range map[string]byte{"1": 1, "340282366920938463463374607431768211455": 255} {
		if id, err := clusterID(text); err != nil || id[15] != last {
			t.Errorf("cluster %s is %x, error %v", text, id, err)
		}
	}
}
