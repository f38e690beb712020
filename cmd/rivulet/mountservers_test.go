package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/frontend/fuse"
	"github.com/rivuletfs/rivulet/frontend/loopmount"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/host/frontends"
)

// TestMountServers finds who serves a mount by its attachment, and files by where they are, and waits until they end.
func TestMountServers(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	t.Setenv("RIVULET_AGENT", "none")
	run := filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), "rivulet")
	dir, link := t.TempDir(), filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	unlock, err := lockMount("a1", link)
	if err != nil {
		t.Fatal(err)
	}
	locks, err := filepath.Glob(filepath.Join(run, "*.lock"))
	if err != nil || len(locks) != 1 {
		t.Fatalf("%v, %v", locks, err)
	}
	if err := os.WriteFile(filepath.Join(run, "mount-untold.lock"), nil, 0o600); err != nil { // of one that is not there yet
		t.Fatal(err)
	}
	byID := func(id string) *loopmount.Mounted {
		return &loopmount.Mounted{Dir: dir, HolderDir: filepath.Join(run, frontends.HiddenPrefix+id), HolderType: fuse.FSType}
	}
	for _, c := range []struct {
		what string
		dir  string
		m    *loopmount.Mounted
		want int
	}{
		{"its attachment", dir, byID("a1"), 1},
		{"another attachment at the same place", dir, byID("b2"), 0},
		{"files there", dir, nil, 1},
		{"files there, by a link", link, nil, 1},
		{"files elsewhere", t.TempDir(), nil, 0},
	} {
		s := new(app).serversOf(t.Context(), c.dir, c.m)
		if len(s.locks) != c.want {
			t.Errorf("%s: %d locks, want %d", c.what, len(s.locks), c.want)
		}
		s.close()
	}

	s := new(app).serversOf(t.Context(), dir, byID("a1"))
	defer s.close()
	soon, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.await(soon, dir); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while it is held: %v", err)
	}
	said, err := os.ReadFile(locks[0])
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	if err := s.await(t.Context(), dir); err != nil {
		t.Errorf("when it is over: %v", err)
	}
	if err := os.WriteFile(locks[0], said, 0o600); err != nil { // as one leaves it that is killed
		t.Fatal(err)
	}
	dead := new(app).serversOf(t.Context(), dir, byID("a1"))
	defer dead.close()
	if err := dead.await(t.Context(), dir); err != nil {
		t.Errorf("when its owner has died: %v", err)
	}
	if _, err := os.Lstat(locks[0]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its file is left: %v", err)
	}
	if err := os.Chmod(run, 0o777); err != nil {
		t.Fatal(err)
	}
	if unlock, err = lockMount("a1", dir); err == nil {
		unlock()
		t.Error("a lock lies where others can put one")
	}
}

// TestMountServersAgent takes the attachment of an agent's that a mount is of.
func TestMountServersAgent(t *testing.T) {
	dir := t.TempDir()
	info := host.Info{ID: "a1", Spec: host.Spec{Frontend: frontendFile, Where: dir}, State: host.Ready}
	waiting, mounted := info, info
	waiting.State, mounted.Spec.Frontend = host.Waiting, frontendMount
	for _, c := range []struct {
		what string
		s    mountServers
		i    host.Info
		want bool
	}{
		{"files", mountServers{where: dir}, info, true},
		{"files that are not shown", mountServers{where: dir}, waiting, false},
		{"a mount where files were asked for", mountServers{where: dir}, mounted, false},
		{"its ID", mountServers{id: "a1", where: dir}, mounted, true},
		{"another ID", mountServers{id: "b2", where: dir}, mounted, false},
	} {
		if got := c.s.isOf(c.i); got != c.want {
			t.Errorf("%s: %t", c.what, got)
		}
	}
}
