package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
)

// A startRequest is what the part of a run does that is inside of a host's network.
type startRequest struct {
	Socket      string   `json:"socket"` // of containerd
	Snapshotter string   `json:"snapshotter"`
	Reference   string   `json:"reference"`
	Pull        bool     `json:"pull"`
	Workload    workload `json:"workload"`
	Keep        bool     `json:"keep,omitempty"` // the container goes on until standard input ends
}

// A startAnswer is one line on the standard output: when the container was ready.
type startAnswer struct {
	Pull   float64 `json:"pull"` // seconds
	Create float64 `json:"create"`
	Ready  float64 `json:"ready"`
	PID    uint32  `json:"pid,omitempty"` // of the container's first process, with Keep
}

// startLimit bounds one start.
const startLimit = 4 * time.Minute

// startCommand starts one container. When it is ready it says how long that took, and waits
// for a line, so that the traffic up to then can be read; then it takes the container down.
func startCommand(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("start", flag.ContinueOnError)
	text := f.String("request", "", "as JSON")
	if err := f.Parse(args); err != nil {
		return err
	}
	var r startRequest
	if err := json.Unmarshal([]byte(*text), &r); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	c, err := client.New(r.Socket, client.WithDefaultNamespace("hello"))
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	return start(ctx, c, &r)
}

func start(ctx context.Context, c *client.Client, r *startRequest) (err error) {
	ctx, done, err := c.WithLease(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done(context.WithoutCancel(ctx))) }()
	var answer startAnswer
	begun := time.Now()
	image, err := pullOrGet(ctx, c, r)
	if err != nil {
		return fmt.Errorf("pull: %w", err)
	}
	pulled := time.Now()
	answer.Pull = pulled.Sub(begun).Seconds()

	heard := newEar(r.Workload.Want)
	options := []oci.SpecOpts{oci.WithImageConfigArgs(image, nil), oci.WithProcessArgs(r.Workload.Args...)}
	if r.Workload.Mode == modePoll {
		options = append(options, oci.WithHostNamespace("network"))
	}
	id := "hello-" + strings.ToLower(rand.Text()[:12]) // processes' numbers are a namespace's, control groups the machine's
	container, err := c.NewContainer(ctx, id, client.WithImage(image), client.WithSnapshotter(r.Snapshotter),
		client.WithNewSnapshot(id, image), client.WithNewSpec(options...))
	if err != nil {
		return fmt.Errorf("container: %w", err)
	}
	defer func() {
		err = errors.Join(err, container.Delete(context.WithoutCancel(ctx), client.WithSnapshotCleanup))
	}()
	task, err := container.NewTask(ctx, cio.NewCreator(cio.WithStreams(strings.NewReader(r.Workload.Stdin), heard, heard)))
	if err != nil {
		return fmt.Errorf("task: %w", err)
	}
	defer func() {
		_, deleted := task.Delete(context.WithoutCancel(ctx), client.WithProcessKill)
		err = errors.Join(err, deleted)
	}()
	exited, err := task.Wait(ctx)
	if err != nil {
		return err
	}
	created := time.Now()
	answer.Create = created.Sub(pulled).Seconds()
	if err := task.Start(ctx); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	if r.Workload.Mode == modePipe {
		// Everything was written; a shell reads until the end.
		if err := task.CloseIO(ctx, client.WithStdinCloser); err != nil {
			return err
		}
	}
	if err := ready(ctx, r.Workload, exited, heard); err != nil {
		return fmt.Errorf("%w; it said %q", err, heard.said())
	}
	answer.Ready = time.Since(created).Seconds()
	if r.Keep {
		answer.PID = task.Pid()
	}
	if err := json.NewEncoder(os.Stdout).Encode(answer); err != nil {
		return err
	}
	_, err = bufio.NewReader(os.Stdin).ReadString('\n')
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return err
}

// pullOrGet pulls the image, or returns the one that is there.
func pullOrGet(ctx context.Context, c *client.Client, r *startRequest) (client.Image, error) {
	if !r.Pull {
		return c.GetImage(ctx, r.Reference)
	}
	resolver := docker.NewResolver(docker.ResolverOptions{
		Hosts: docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchAllHosts)),
	})
	return c.Pull(ctx, r.Reference, client.WithPullUnpack, client.WithPullSnapshotter(r.Snapshotter), client.WithResolver(resolver),
		client.WithImageHandlerWrapper(snapshotters.AppendInfoHandlerWrapper(r.Reference)))
}

// pollEvery is how often an HTTP server is asked, as in the original.
const pollEvery = 10 * time.Millisecond

// ready waits until the container is, by its workload's rule.
func ready(ctx context.Context, w workload, exited <-chan client.ExitStatus, heard *ear) error {
	switch w.Mode {
	case modeRun, modePipe:
		select {
		case s := <-exited:
			if code, _, err := s.Result(); err != nil || code != 0 {
				return errors.Join(err, fmt.Errorf("exit status %d", code))
			}
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	case modeLine:
		select {
		case <-heard.found:
			return nil
		case s := <-exited:
			return fmt.Errorf("it ended with status %d", s.ExitCode())
		case <-ctx.Done():
			return ctx.Err()
		}
	case modePoll:
		return pollUntil(ctx, w, exited)
	}
	return fmt.Errorf("mode %q", w.Mode)
}

func pollUntil(ctx context.Context, w workload, exited <-chan client.ExitStatus) error {
	hc := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		body, err := get(ctx, hc, fmt.Sprintf("http://127.0.0.1:%d/", w.Port))
		if err == nil {
			if !bytes.Contains(body, []byte(w.Want)) {
				return fmt.Errorf("answered without %q: %.200q", w.Want, body)
			}
			return nil
		}
		select {
		case s := <-exited:
			return fmt.Errorf("it ended with status %d", s.ExitCode())
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(pollEvery):
		}
	}
}

func get(ctx context.Context, hc *http.Client, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	answer, err := hc.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		return nil, errors.New(answer.Status)
	}
	return io.ReadAll(io.LimitReader(answer.Body, 64<<10))
}

// An ear hears what a container says: it keeps the end of it, and knows when it has heard
// what was wanted.
type ear struct {
	mu    sync.Mutex
	want  []byte
	kept  []byte
	once  sync.Once
	found chan struct{}
}

func newEar(want string) *ear { return &ear{want: []byte(want), found: make(chan struct{})} }

// earKeeps is more than any line that is waited for.
const earKeeps = 4 << 10

func (e *ear) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	rest := p
	for len(rest) > 0 { // so that a large write costs little
		part := rest[:min(len(rest), earKeeps)]
		rest = rest[len(part):]
		e.kept = append(e.kept, part...)
		if len(e.want) > 0 && bytes.Contains(e.kept, e.want) {
			e.once.Do(func() { close(e.found) })
		}
		if len(e.kept) > earKeeps {
			e.kept = append(e.kept[:0], e.kept[len(e.kept)-earKeeps/2:]...)
		}
	}
	return len(p), nil
}

func (e *ear) said() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return strings.TrimSpace(string(e.kept))
}
