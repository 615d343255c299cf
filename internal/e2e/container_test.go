//go:build linux

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kapsel-hq/kapsel/internal/store/pgtest"
)

// These tests must run without a container engine. So they read the Dockerfile and compose.yaml, and start
// the binary as these files say: in an empty root directory that the binary cannot write, as a user that
// is in no file.

// TestContainer_S25_Image checks that the image has the binary and certificates and nothing
// else, runs as an unprivileged user and asks the binary for its health.
func TestContainer_S25_Image(t *testing.T) {
	image := readDockerfile(t)
	for instruction, want := range map[string]string{
		"FROM":       "scratch",
		"USER":       "65532:65532",
		"ENTRYPOINT": `["/kapsel"]`,
		"CMD":        `["serve"]`,
		"VOLUME":     "/data",
		"STOPSIGNAL": "SIGTERM",
	} {
		if diff := cmp.Diff([]string{want}, image.lines[instruction]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", instruction, diff)
		}
	}
	if run := image.lines["RUN"]; run != nil {
		t.Errorf("the final stage runs %q, with no shell to run it", run)
	}
	want := []string{
		"--from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt",
		"--from=build /out/kapsel /kapsel",
		"--from=build --chown=65532:65532 /out/data /data",
	}
	if diff := cmp.Diff(want, image.lines["COPY"]); diff != "" {
		t.Errorf("COPY (-want +got):\n%s", diff)
	}
	if check := strings.Join(image.lines["HEALTHCHECK"], ""); !strings.HasSuffix(check, `CMD ["/kapsel", "health"]`) {
		t.Errorf("HEALTHCHECK %s does not run /kapsel health", check)
	}
}

// TestContainer_S25_Compose checks that each service in compose.yaml has a read-only root, no
// capabilities, no new privileges and a health check, and no secret is written there and the
// database is not published.
func TestContainer_S25_Compose(t *testing.T) {
	services := readYAML(t, "compose.yaml")["services"].(map[string]any)
	for name, v := range services {
		service := v.(map[string]any)
		for key, want := range map[string]any{
			"read_only":    "true",
			"cap_drop":     []any{"ALL"},
			"security_opt": []any{"no-new-privileges:true"},
		} {
			if diff := cmp.Diff(want, service[key]); diff != "" {
				t.Errorf("%s: %s (-want +got):\n%s", name, key, diff)
			}
		}
		if user, _ := service["user"].(string); user == "" || strings.HasPrefix(user, "0") {
			t.Errorf("%s runs as user %q", name, user)
		}
		if service["healthcheck"] == nil {
			t.Errorf("%s has no health check", name)
		}
	}
	kapsel, postgres := services["kapsel"].(map[string]any), services["postgres"].(map[string]any)
	for _, secret := range []string{"KAPSEL_ADMIN_KEY", "KAPSEL_ENCRYPTION_KEY"} {
		if got := kapsel["environment"].(map[string]any)[secret]; got != "${"+secret+":?is not set}" {
			t.Errorf("%s is %v, not from the environment", secret, got)
		}
	}
	if postgres["ports"] != nil {
		t.Error("PostgreSQL is published")
	}
	if diff := cmp.Diff([]any{"127.0.0.1:8080:8080"}, kapsel["ports"]); diff != "" {
		t.Errorf("ports (-want +got):\n%s", diff)
	}
	grace, err := time.ParseDuration(kapsel["stop_grace_period"].(string))
	if err != nil || grace < 26*time.Second {
		t.Errorf("stop_grace_period %v is shorter than a stop may take", kapsel["stop_grace_period"])
	}
}

// TestContainer_S25_Runs checks that the binary works in an empty, read-only root as a user
// that no file knows, with SQLite and with PostgreSQL.
func TestContainer_S25_Runs(t *testing.T) {
	binary := program(t) // static, as the image's
	image := readDockerfile(t).env(t)
	composed := readYAML(t, "compose.yaml")["services"].(map[string]any)["kapsel"].(map[string]any)["environment"].(map[string]any)

	t.Run("image with SQLite", func(t *testing.T) {
		runContainer(t, binary, maps.Clone(image))
	})
	t.Run("compose with PostgreSQL", func(t *testing.T) {
		env := maps.Clone(image)
		host := map[string]string{
			"POSTGRES_PASSWORD":     "unused",
			"KAPSEL_ADMIN_KEY":      strings.Repeat("0123456789abcdef", 4),
			"KAPSEL_ENCRYPTION_KEY": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
		}
		for name, v := range composed {
			env[name] = substitute(t, v.(string), host)
		}
		if want := "postgres://kapsel:unused@postgres:5432/kapsel?sslmode=disable"; env["DATABASE_URL"] != want {
			t.Errorf("DATABASE_URL = %s, want %s", env["DATABASE_URL"], want)
		}
		env["DATABASE_URL"] = pgtest.New(t)
		runContainer(t, binary, env)
	})
}

// runContainer runs the binary as a container with an environment would, and stops it when it is healthy. The
// binary listens on free loopback ports instead of its usual ones.
func runContainer(t *testing.T, binary string, env map[string]string) {
	root := t.TempDir()
	if err := os.Link(binary, filepath.Join(root, "kapsel")); err != nil {
		t.Fatal(err)
	}
	user := newUser(t, root)
	env["KAPSEL_LISTEN"], env["KAPSEL_METRICS_LISTEN"] = freeAddr(t), freeAddr(t)
	env["KAPSEL_DRAIN_DELAY"] = "0s"

	var output bytes.Buffer
	serve := user.command(root, env, "serve")
	serve.Stdout, serve.Stderr = &output, &output
	if err := serve.Start(); err != nil {
		t.Fatalf("start in an empty root: %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- serve.Wait() }()
	defer func() {
		if t.Failed() {
			_ = serve.Process.Kill()
			<-ended
			t.Logf("output:\n%s", output.String())
		}
	}()

	deadline := time.After(patience)
	for user.command(root, env, "health").Run() != nil {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("the process ended: %v", err)
		case <-deadline:
			t.Fatal("not healthy in time")
		case <-time.After(50 * time.Millisecond):
		}
	}
	for _, url := range []string{
		"http://" + env["KAPSEL_LISTEN"] + "/health/ready",
		"http://" + env["KAPSEL_METRICS_LISTEN"] + "/metrics",
	} {
		resp, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("GET %s = %d", url, resp.StatusCode)
		}
	}

	if err := serve.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		ended <- err
		if err != nil {
			t.Errorf("after SIGTERM: %v", err)
		}
	case <-time.After(within(26 * time.Second)):
		t.Error("did not stop in time")
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if name := e.Name(); name != "kapsel" && name != "data" {
			t.Errorf("the process made %s in its root", name)
		}
	}
}

// user is a user ID that owns only the data directory.
type user struct {
	id         uint32
	namespaced bool // the id exists only in a user namespace: the test is not root
}

// newUser picks a random user and makes root a root directory that only it may write data in.
func newUser(t *testing.T, root string) user {
	u := user{id: 100_000 + rand.Uint32N(1<<20), namespaced: os.Geteuid() != 0}
	data := filepath.Join(root, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if !u.namespaced {
		if err := os.Chown(data, int(u.id), int(u.id)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(root, 0o555); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(root, 0o755) })
	return u
}

// command returns a command that runs /kapsel with arguments as the user in a root directory.
func (u user) command(root string, env map[string]string, args ...string) *exec.Cmd {
	cmd := exec.Command("/kapsel", args...)
	cmd.Dir = "/"
	cmd.Env = []string{} // not nil, which would be this process's
	for name, v := range env {
		cmd.Env = append(cmd.Env, name+"="+v)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Chroot:     root,
		Credential: &syscall.Credential{Uid: u.id, Gid: u.id, NoSetGroups: u.namespaced},
		Pdeathsig:  syscall.SIGKILL,
	}
	if u.namespaced {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: int(u.id), HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: int(u.id), HostID: os.Getegid(), Size: 1}}
	}
	return cmd
}

// repository is the module's root, from the directory that this package's tests run in.
const repository = "../.."

// dockerfile has the instructions of an image's final stage.
type dockerfile struct{ lines map[string][]string }

func readDockerfile(t *testing.T) dockerfile {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repository, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	d := dockerfile{}
	for line := range strings.Lines(strings.ReplaceAll(string(text), "\\\n", "")) {
		instruction, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case instruction == "" || instruction[0] == '#':
			continue
		case instruction == "FROM":
			d.lines = map[string][]string{} // a new stage
		}
		d.lines[instruction] = append(d.lines[instruction], strings.TrimSpace(rest))
	}
	return d
}

// env returns the image's environment.
func (d dockerfile) env(t *testing.T) map[string]string {
	t.Helper()
	env := map[string]string{}
	for _, line := range d.lines["ENV"] {
		name, v, ok := strings.Cut(line, "=")
		if !ok || strings.Contains(v, " ") {
			t.Fatalf("ENV %s: not one NAME=VALUE", line)
		}
		env[name] = v
	}
	return env
}

// substitute replaces ${NAME:?text} and ${NAME:-default}, as Compose does.
func substitute(t *testing.T, text string, env map[string]string) string {
	t.Helper()
	return os.Expand(text, func(expr string) string {
		name, rest, _ := strings.Cut(expr, ":")
		v, ok := env[name]
		switch {
		case ok:
			return v
		case strings.HasPrefix(rest, "-"):
			return rest[1:]
		}
		t.Fatalf("%s %s", name, strings.TrimPrefix(rest, "?"))
		return ""
	})
}

// readYAML reads the small part of YAML that our files use: maps and lists by indentation,
// scalars plain or quoted, lists in brackets, comments on lines of their own. Scalars are
// strings.
func readYAML(t *testing.T, name string) map[string]any {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repository, name))
	if err != nil {
		t.Fatal(err)
	}
	var y yamlLines
	for line := range strings.Lines(string(text)) {
		if trimmed := strings.TrimSpace(line); trimmed != "" && trimmed[0] != '#' {
			y = append(y, strings.TrimRight(line, "\n"))
		}
	}
	v, err := y.value()
	if err != nil || len(y) > 0 {
		t.Fatalf("%s: %v; left: %q", name, err, y)
	}
	return v.(map[string]any)
}

// yamlLines holds the lines that are not read yet.
type yamlLines []string

func indentOf(line string) int { return len(line) - len(strings.TrimLeft(line, " ")) }

// value reads the map or list whose first line is next.
func (y *yamlLines) value() (any, error) {
	indent := indentOf((*y)[0])
	var list []any
	object := map[string]any{}
	for len(*y) > 0 && indentOf((*y)[0]) == indent {
		line := (*y)[0][indent:]
		*y = (*y)[1:]
		if item, ok := strings.CutPrefix(line, "- "); ok {
			v, err := yamlScalar(item)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
			continue
		}
		key, rest, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("line %q", line)
		}
		if _, twice := object[key]; twice {
			return nil, fmt.Errorf("%s stands twice", key)
		}
		var err error
		switch {
		case strings.TrimSpace(rest) != "":
			object[key], err = yamlScalar(strings.TrimSpace(rest))
		case len(*y) > 0 && indentOf((*y)[0]) > indent:
			object[key], err = y.value()
		default:
			object[key] = nil
		}
		if err != nil {
			return nil, err
		}
	}
	if list != nil {
		return list, nil
	}
	return object, nil
}

func yamlScalar(text string) (any, error) {
	switch text[0] {
	case '"':
		return strconv.Unquote(text)
	case '[':
		var list []any
		err := json.Unmarshal([]byte(text), &list)
		return list, err
	case '{', '&', '*', '|', '>', '\'':
		return nil, fmt.Errorf("value %q", text)
	}
	return text, nil
}
