// Package s3test runs a real S3 server for tests: versitygw, from the path, on
// a free port of this machine, over a directory of the test's.
package s3test

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/internal/freeport"
)

// Program is the server's. "go install github.com/versity/versitygw/cmd/versitygw@v1.8.0"
// gets it.
const Program = "versitygw"

// Region is what the server says that it is in.
const Region = "us-east-1"

// A Server is a running S3 server.
type Server struct {
	Endpoint  *url.URL // http, on the loopback interface
	AccessKey string
	SecretKey string // at random, so that a text can be searched for it
	Dir       string // a folder in it is a bucket

	cmd     *exec.Cmd
	ended   chan string // gets the last line that it printed
	buckets atomic.Int64
}

// Find returns the path of the program, or why there is none.
func Find() (string, error) {
	if path, err := exec.LookPath(Program); err == nil {
		return path, nil
	}
	// Where go install puts programs, which is not always in the path.
	for _, dir := range []string{os.Getenv("GOBIN"), filepath.Join(os.Getenv("GOPATH"), "bin"), filepath.Join(os.Getenv("HOME"), "go", "bin")} {
		path := filepath.Join(dir, Program)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && filepath.IsAbs(path) {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not installed: go install github.com/versity/versitygw/cmd/versitygw@v1.8.0", Program)
}

// Start starts a server for a test, which is skipped where there is none, and
// sets the environment's credentials to the server's. With RIVULET_E2E_STRICT=1
// it fails instead. Arguments are those of Run.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	path, err := Find()
	if err != nil {
		if os.Getenv("RIVULET_E2E_STRICT") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	s, err := Run(context.Background(), path, t.TempDir(), args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	s.Login(t)
	return s
}

// Login sets the environment's credentials to the server's, and takes away
// whatever else there is, until the test ends.
func (s *Server) Login(t testing.TB) {
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": s.AccessKey, "AWS_SECRET_ACCESS_KEY": s.SecretKey, "AWS_SESSION_TOKEN": "",
		"AWS_ACCESS_KEY": "", "AWS_SECRET_KEY": "", "AWS_PROFILE": "", "AWS_REGION": "", "AWS_DEFAULT_REGION": "",
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
	} {
		t.Setenv(name, value)
	}
}

// Run starts the server at path over dir, and waits until it answers. Arguments
// are added to the server's, before the name of its backend.
func Run(ctx context.Context, path, dir string, args ...string) (*Server, error) {
	s := &Server{AccessKey: "test-" + rand.Text()[:12], SecretKey: rand.Text(), Dir: dir, ended: make(chan string, 1)}
	for range 5 { // another process may take the port
		addr, err := freeport.Addr()
		if err != nil {
			return nil, err
		}
		s.Endpoint = &url.URL{Scheme: "http", Host: addr}
		if err = s.start(ctx, path, args); err == nil {
			return s, nil
		} else if ctx.Err() != nil || !errors.Is(err, errEnded) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%s does not start", path)
}

var errEnded = errors.New("the server has ended")

func (s *Server) start(ctx context.Context, path string, args []string) error {
	args = append([]string{"--port", s.Endpoint.Host, "--region", Region, "--quiet", "--keep-alive", "--health", "/health"}, args...)
	s.cmd = exec.Command(path, append(args, "posix", s.Dir)...)
	s.cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY_ID="+s.AccessKey, "ROOT_SECRET_ACCESS_KEY="+s.SecretKey)
	s.cmd.SysProcAttr = endWithParent()
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	s.cmd.Stderr = s.cmd.Stdout
	if err := s.cmd.Start(); err != nil {
		return err
	}
	go func() {
		var last string
		for lines := bufio.NewScanner(out); lines.Scan(); {
			last = lines.Text()
		}
		_, _ = io.Copy(io.Discard, out)
		_ = s.cmd.Wait()
		s.ended <- last
	}()
	for {
		resp, err := http.Get(s.Endpoint.JoinPath("health").String())
		if err == nil {
			_ = resp.Body.Close()
			return nil
		}
		select {
		case last := <-s.ended:
			return fmt.Errorf("%w: %s", errEnded, last)
		case <-ctx.Done():
			return errors.Join(ctx.Err(), s.Stop())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Stop ends the server and waits for it.
func (s *Server) Stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-s.ended:
	case <-time.After(10 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.ended
	}
	return nil
}

// NewBucket makes an empty bucket and returns its name.
func (s *Server) NewBucket(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("bucket-%d", s.buckets.Add(1))
	if err := os.Mkdir(filepath.Join(s.Dir, name), 0o777); err != nil {
		t.Fatal(err)
	}
	return name
}

// URL returns the address of an origin in a bucket, as --store takes it. More
// parameters follow the endpoint, each as NAME=VALUE.
func (s *Server) URL(bucket, prefix string, parameters ...string) string {
	return s.Via(s.Endpoint.Host, bucket, prefix, parameters...)
}

// Via is URL through a proxy at HOST:PORT.
func (s *Server) Via(addr, bucket, prefix string, parameters ...string) string {
	return "s3://" + bucket + "/" + prefix + "?" + strings.Join(append([]string{"endpoint=http://" + addr}, parameters...), "&")
}
