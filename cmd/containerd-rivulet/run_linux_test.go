package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/errdefs"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestServes speaks with the program as containerd does, twice over one folder.
func TestServes(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", dir)
	t.Setenv("RIVULET_AGENT", "")
	for _, name := range []string{"first", "second"} {
		ctx, cancel := context.WithCancel(t.Context())
		out, in := io.Pipe()
		ended := make(chan int, 1)
		var log bytes.Buffer
		go func() {
			code := run(ctx, []string{"--root", filepath.Join(dir, "root"), "--store", "dir:images", "--patience", "1ms", "--json"}, in, &log)
			_ = in.Close()
			ended <- code
		}()
		line := make([]byte, 4096)
		n, _ := out.Read(line)
		address, ok := strings.CutPrefix(strings.TrimSpace(string(line[:n])), "ready ")
		if !ok {
			t.Fatalf("it said %q, %s", line[:n], log.String())
		}
		if st, err := os.Stat(address); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("socket: %v, %v", st, err)
		}
		talk(t, address, name)
		cancel()
		if code := <-ended; code != exitOK {
			t.Errorf("status %d: %s", code, log.String())
		}
		if _, err := os.Stat(address); err == nil {
			t.Error("the socket is left")
		}
	}
}

func talk(t *testing.T, address, name string) {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	s := proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "rivulet")
	if _, err := s.Stat(t.Context(), "nosuch"); !errdefs.IsNotFound(err) {
		t.Errorf("stat: %v", err)
	}
	mounts, err := s.Prepare(t.Context(), "key "+name, "")
	if err != nil || len(mounts) != 1 || mounts[0].Type != "bind" {
		t.Fatalf("prepare: %v, %v", mounts, err)
	}
	// There is no agent, so a layer is unpacked.
	labels := map[string]string{snapshots.LabelSnapshotRef: "sha256:" + strings.Repeat("0", 64), "containerd.io/snapshot/cri.manifest-digest": "sha256:" + strings.Repeat("1", 64)}
	if mounts, err = s.Prepare(t.Context(), "layer "+name, "", snapshots.WithLabels(labels)); err != nil || len(mounts) != 1 {
		t.Errorf("prepare a layer: %v, %v", mounts, err)
	}
	if err := s.Commit(t.Context(), name, "key "+name); err != nil {
		t.Error(err)
	}
	var names []string
	err = s.Walk(t.Context(), func(_ context.Context, i snapshots.Info) error {
		names = append(names, i.Name)
		return nil
	}, "kind==committed")
	if want := map[string]int{"first": 1, "second": 2}[name]; err != nil || len(names) != want {
		t.Errorf("there are %q, %v", names, err)
	}
	if err := s.(snapshots.Cleaner).Cleanup(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestMistakes(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", dir)
	ln, err := net.Listen("unix", filepath.Join(dir, "busy"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--store", "images"}, exitUsage, "--store"},
		{[]string{"--log-level", "loud"}, exitUsage, "--log-level"},
		{[]string{"--patience", "0s"}, exitUsage, "--patience"},
		{[]string{"--fill-rate", "fast"}, exitUsage, "--fill-rate"},
		{[]string{"--fill-rate", "0"}, exitUsage, "--fill=false"},
		{[]string{"--fill=false", "--fill-rate", "1M"}, exitUsage, "--fill-rate needs --fill"},
		{[]string{"--require-signature", "nonsense"}, exitUsage, "nonsense"},
		{[]string{"--writable", "tape"}, exitUsage, "overlay, disk or block"},
		{[]string{"--quota", "much"}, exitUsage, "--quota"},
		{[]string{"--nosuch"}, exitUsage, "unknown flag"},
		{[]string{"--root", "/dev/null/x"}, exitFailed, "not a directory"},
		{[]string{"--root", filepath.Join(dir, "root"), "--address", filepath.Join(dir, "busy")}, exitFailed, "listens there already"},
		{[]string{"--root", filepath.Join(dir, "root"), "--logins", filepath.Join(dir, "busy")}, exitFailed, "listens there already"},
		{[]string{"--root", filepath.Join(dir, "root"), "--image-service", filepath.Join(dir, "busy")}, exitFailed, "listens there already"},
		{[]string{"--root", filepath.Join(dir, "root"), "--keep-logins"}, exitUsage, "--image-service"},
		{[]string{"--image-credential-provider-config", "x"}, exitUsage, "go together"},
		{[]string{"--image-credential-provider-config", filepath.Join(dir, "x"), "--image-credential-provider-bin-dir", dir}, exitFailed, "no such file"},
	} {
		var out, errs bytes.Buffer
		code := run(t.Context(), c.args, &out, &errs)
		if code != c.code || !strings.Contains(errs.String(), c.says) {
			t.Errorf("%q: status %d, %s", c.args, code, errs.String())
		}
	}
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"man", dir}, &out, &errs); code != exitOK {
		t.Errorf("man: status %d, %s", code, errs.String())
	}
	if b, err := os.ReadFile(filepath.Join(dir, "containerd-rivulet.1")); err != nil || !bytes.Contains(b, []byte("own\\-repository")) && !bytes.Contains(b, []byte("own-repository")) {
		t.Errorf("man page: %v\n%s", err, b)
	}
}
