package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/store/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve answers until the test ends, for a host with an empty store unless s has
// one.
func serve(t *testing.T, s *Server) (socket string, end func() error) {
	t.Helper()
	if s.Host == nil {
		s.Host = emptyHost(t)
	}
	socket = filepath.Join(t.TempDir(), "s")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, ln) }()
	ended := false
	end = func() error {
		cancel()
		ended = true
		return <-served
	}
	t.Cleanup(func() {
		if !ended {
			if err := end(); err != nil {
				t.Error(err)
			}
		}
	})
	return socket, end
}

func client(t *testing.T, socket string) *Client {
	t.Helper()
	c, err := Dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func emptyHost(t *testing.T) *host.Host {
	t.Helper()
	h, err := host.New(host.Config{
		Open: func(context.Context, string) (host.Source, error) {
			return host.Source{View: generation.NewView(memory.New(), generation.Options{})}, nil
		},
		Unwrappers: func(context.Context, []string) ([]seal.Unwrapper, error) { return nil, nil },
		Frontends:  map[string]host.Frontend{"none": nil},
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestRequests(t *testing.T) {
	socket, end := serve(t, &Server{Version: "v1", Upgrade: func(context.Context) (int, error) { return 17, nil }})
	c := client(t, socket)
	if list, err := c.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("list: %v, %v", list, err)
	}
	if a, err := c.Agent(t.Context()); err != nil || a.Version != "v1" || a.PID != os.Getpid() || a.Since.IsZero() {
		t.Errorf("agent: %+v, %v", a, err)
	}
	if s, err := c.Stores(t.Context()); err != nil || len(s) != 0 {
		t.Errorf("stores: %+v, %v", s, err)
	}
	if _, err := c.Slow(t.Context(), "nosuch/../x"); !errors.Is(err, host.ErrNotFound) {
		t.Errorf("slow reads of nothing: %v", err)
	}
	if u, err := c.Upgrade(t.Context()); err != nil || u.PID != 17 {
		t.Errorf("upgrade: %v, %v", u, err)
	}
	if err := c.Wait(t.Context(), "nosuch"); err != nil {
		t.Errorf("wait for what has ended: %v", err)
	}
	good := host.Spec{Image: "nosuch", Store: "memory", Frontend: "double", Where: "x"}
	if _, err := c.Attach(t.Context(), good); !errors.As(err, new(host.SpecError)) || !strings.Contains(err.Error(), `frontend is called "double"`) {
		t.Errorf("attach with a frontend that is not there: %v", err)
	}
	if _, err := c.Find(t.Context(), host.Query{Store: "memory", Image: "nosuch"}); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("find: %v", err)
	}
	if err := c.Detach(t.Context(), "nosuch/../x", false, time.Second); !errors.Is(err, host.ErrNotFound) || errors.Is(err, host.ErrBusy) {
		t.Errorf("detach: %v", err)
	}
	if err := c.Detach(t.Context(), "x", false, time.Hour); !errors.As(err, new(host.SpecError)) {
		t.Errorf("detach with an hour's patience: %v", err)
	}
	if err := end(); err != nil {
		t.Error(err)
	}
	if _, err := Dial(t.Context(), socket); !errors.Is(err, ErrNoAgent) {
		t.Errorf("nobody listens: %v", err)
	}
	if _, err := c.List(t.Context()); err == nil {
		t.Error("an answer from nobody")
	}
}

// TestErrors sends each kind of error over, and wants it to mean the same.
func TestErrors(t *testing.T) {
	var next error
	socket, _ := serve(t, &Server{Upgrade: func(context.Context) (int, error) { return 0, next }})
	c := client(t, socket)
	for _, want := range []error{host.ErrNotFound, host.ErrBusy, host.ErrClosed, chunk.ErrNotFound, os.ErrPermission} {
		next = fmt.Errorf("some thing: %w", want)
		if _, err := c.Upgrade(t.Context()); !errors.Is(err, want) || err.Error() != next.Error() {
			t.Errorf("%v arrives as %v", next, err)
		}
	}
	next = errors.New("another")
	if _, err := c.Upgrade(t.Context()); err == nil || err.Error() != "another" {
		t.Errorf("an error of no kind arrives as %v", err)
	}
	next = host.SpecErrorf("a mistake")
	if _, err := c.Upgrade(t.Context()); !errors.As(err, new(host.SpecError)) {
		t.Errorf("a mistake arrives as %v", err)
	}
}

// TestBadRequests answers what no client of ours sends.
func TestBadRequests(t *testing.T) {
	socket, _ := serve(t, &Server{})
	c := client(t, socket)
	for _, r := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/healthz", "", http.StatusOK},
		{"GET", "/", "", http.StatusNotFound},
		{"PUT", "/v1/attachments", "", http.StatusMethodNotAllowed},
		{"POST", "/v1/attach", "", http.StatusBadRequest},
		{"POST", "/v1/attach", `{"attach":[{"image":"x","secret":"y"}]}`, http.StatusBadRequest},
		{"POST", "/v1/attach", `{"attach":[{"image":"` + strings.Repeat("x", maxBody) + `"}]}`, http.StatusBadRequest},
		{"POST", "/v1/attach", `{"attach":[{"image":"x"}]}`, http.StatusBadRequest},
		{"POST", "/v1/find", "", http.StatusBadRequest},
		{"POST", "/v1/find", `{"find":{"store":"memory"}}`, http.StatusBadRequest},
		{"POST", "/v1/upgrade", "", http.StatusInternalServerError},
		{"DELETE", "/v1/attachments/x?wait=soon", "", http.StatusBadRequest},
		{"DELETE", "/v1/attachments/x", "", http.StatusNotFound},
	} {
		q, err := http.NewRequestWithContext(t.Context(), r.method, "http://agent"+r.path, strings.NewReader(r.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.http.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != r.status {
			t.Errorf("%s %s %.40s: %s, want %d", r.method, r.path, r.body, resp.Status, r.status)
		}
	}
}
