package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// TestDev_FirstImpression starts the program as the README says, in an empty directory with
// nothing set, and pastes the line that it prints.
func TestDev_FirstImpression(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	cmd := exec.CommandContext(ctx, program(t), "serve", "--dev", "--listen", ln.Addr().String(), "--metrics-listen", "")
	cmd.Dir = t.TempDir()
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + cmd.Dir}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	paste := ""
	for lines := bufio.NewScanner(out); paste == "" && lines.Scan(); {
		if line := strings.TrimSpace(lines.Text()); strings.HasPrefix(line, "curl ") {
			paste = line
		}
	}
	m := regexp.MustCompile(`^curl -sS -d '(\{"hello":"kapsel"\})' '(http://[^']+/ingest/ep_[0-9a-z]{26}\?wait=5s)'$`).FindStringSubmatch(paste)
	if m == nil {
		t.Fatalf("the line to paste is %q", paste)
	}
	status, code, event := 0, "", ""
	if _, err := exec.LookPath("curl"); err == nil {
		answer, err := exec.CommandContext(ctx, "sh", "-c", paste).Output()
		if err != nil {
			t.Fatal(err)
		}
		var got struct{ Event_id, Status string }
		if err := json.Unmarshal(answer, &got); err != nil || got.Status != "delivered" {
			t.Errorf("the pasted line answered %s", answer)
		}
	} else if status, code, event = post(t, m[2], nil, strings.NewReader(m[1])); status != 200 || event == "" {
		t.Errorf("the pasted request answered %d %s", status, code)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("stopped badly: %v", err)
	}
}
