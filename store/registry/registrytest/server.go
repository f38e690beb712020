// Package registrytest starts registries for tests, and makes them fail.
//
// Memory is a registry in the test's process, which a [Faults] handler can
// stand before. Distribution and OCI are other programs: the registry that most
// people run, which has no referrers API, and one that has it. All of them
// serve plain HTTP on the loopback interface and forget everything when the
// test ends.
package registrytest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/rivuletfs/rivulet/internal/freeport"
)

// startTime is what a registry may take to answer for the first time.
const startTime = 30 * time.Second

// distributionConfig is the configuration of the distribution registry.
const distributionConfig = `version: 0.1
log: {accesslog: {disabled: true}, level: error}
storage:
  filesystem: {rootdirectory: %s}
  delete: {enabled: true}
http: {addr: %s, secret: test}
`

// Memory starts a registry in this process and returns its host and port. wrap
// may put something before it.
func Memory(t testing.TB, referrers bool, wrap func(http.Handler) http.Handler) string {
	t.Helper()
	h := registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(referrers))
	if wrap != nil {
		h = wrap(h)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

// A Registry is the distribution registry, in a process of its own.
type Registry struct {
	Addr string // host and port

	program, config string
	stop            func()
}

// Distribution starts the registry of the CNCF distribution project, which has
// to be in PATH or in the folder for Go's programs as "registry". Where it is
// not, the test is skipped, unless RIVULET_E2E_STRICT is set.
func Distribution(t testing.TB) *Registry {
	t.Helper()
	program, err := distribution()
	if err != nil {
		if os.Getenv("RIVULET_E2E_STRICT") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	addr, err := freeport.Addr()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	r := &Registry{Addr: addr, program: program, config: filepath.Join(dir, "config.yml")}
	text := fmt.Sprintf(distributionConfig, filepath.Join(dir, "data"), r.Addr)
	if err := os.WriteFile(r.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r.start(t)
	return r
}

func (r *Registry) start(t testing.TB) {
	t.Helper()
	r.stop = start(t, exec.Command(r.program, "serve", r.config))
	waitFor(t, r.Addr)
}

// Collect stops the registry, lets it collect garbage, untagged manifests too,
// as its operators do, and starts it again.
func (r *Registry) Collect(t testing.TB) {
	t.Helper()
	r.stop()
	cmd := exec.Command(r.program, "garbage-collect", "--delete-untagged", r.config)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("garbage-collect: %v\n%s", err, out)
	}
	r.start(t)
}

// distribution finds the program, and sees to it that it is the one: Debian's
// docker-registry, of another version, does as well.
func distribution() (string, error) {
	names := []string{"registry", "docker-registry"}
	if out, err := exec.Command("go", "env", "GOPATH").Output(); err == nil {
		names = append([]string{filepath.Join(strings.TrimSpace(string(out)), "bin", "registry")}, names...)
	}
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("the distribution registry is not installed (go install github.com/distribution/distribution/v3/cmd/registry@v3.1.2)")
}

// OCI starts internal/ociserver, a registry with the referrers API in a process
// of its own, and returns its host and port.
func OCI(t testing.TB) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "ociserver")
	build := exec.Command("go", "build", "-o", program, "github.com/rivuletfs/rivulet/internal/ociserver")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build ociserver: %v\n%s", err, out)
	}
	cmd := exec.Command(program, "127.0.0.1:0")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	start(t, cmd)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("ociserver said no address: %v", err)
	}
	addr := strings.TrimSpace(line)
	waitFor(t, addr)
	return addr
}

// start starts a program that ends with the test, or when stop is called.
func start(t testing.TB, cmd *exec.Cmd) (stop func()) {
	t.Helper()
	cmd.Stderr = io.Discard
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	t.Cleanup(stop)
	return stop
}

// waitFor waits until a registry answers.
func waitFor(t testing.TB, addr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/v2/", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			_ = resp.Body.Close()
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("the registry at %s does not answer: %v", addr, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
