package frontends

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/frontend/loopmount"
	"github.com/rivuletfs/rivulet/host"
)

// TestKataVolume reads the note as Kata does: by the schema and the folder's name of its
// docs/design/direct-blk-device-assignment.md. Kata itself is not run.
func TestKataVolume(t *testing.T) {
	s := newStage(t, ext4Disk(t))
	run, volumes := t.TempDir(), filepath.Join(t.TempDir(), "direct-volumes")
	frontend := func() *KataVolume {
		return &KataVolume{Block: Block{File: File{Keeper: s.keeper, Logger: s.log}, Runtime: run}, Volumes: volumes}
	}
	const path = "/kubelet/a/b/c/d/sdf"
	folder := filepath.Join(volumes, "L2t1YmVsZXQvYS9iL2MvZC9zZGY=")
	note := func() (device string) {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(folder, "mountInfo.json"))
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		device, _ = m["device"].(string)
		if m["volume-type"] != "block" || m["fstype"] != "ext4" || device == "" || len(m) != 4 {
			t.Fatalf("note %s", b)
		}
		if o, ok := m["options"].([]any); !ok || len(o) != 1 || o[0] != "ro" {
			t.Errorf("note %s", b)
		}
		if list, err := os.ReadDir(folder); err != nil || len(list) != 1 {
			t.Errorf("Kata takes a file for a sandbox's: %v, %v", list, err)
		}
		return device
	}
	f := frontend()
	o := s.must(s.offer(f, path, "", nil))
	if o.Address() != path {
		t.Errorf("address %q", o.Address())
	}
	if _, err := s.offer(f, path, "", func(o *host.Offer) { o.ID = "b2" }); !errors.As(err, new(host.SpecError)) {
		t.Errorf("a second volume at the path: %v", err)
	}
	if _, err := s.offer(f, "/"+strings.Repeat("long/", 50), "", func(o *host.Offer) { o.ID = "b3" }); !errors.As(err, new(host.SpecError)) || !errors.Is(err, unix.ENAMETOOLONG) {
		t.Errorf("a path that makes no folder: %v", err)
	}
	device := note()
	// What the runtime in the machine would do with it.
	dir := t.TempDir()
	m, err := loopmount.MountDevice(device, dir, false)
	if err != nil {
		t.Fatal(err)
	}
	readPast(t, filepath.Join(dir, "f"))
	soon, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := o.Detach(soon, false); !errors.Is(err, host.ErrBusy) {
		t.Errorf("detached from its user: %v", err)
	}
	note() // is still there
	in := s.release(f)
	next := frontend()
	o = s.must(s.offer(next, path, "", again(in)))
	if again := note(); again != device {
		t.Errorf("another device: %s, was %s", again, device)
	}
	if err := os.WriteFile(filepath.Join(folder, "sandbox-1"), nil, 0o600); err != nil { // as Kata does
		t.Fatal(err)
	}
	if err := unix.Unmount(m.Dir, 0); err != nil {
		t.Fatal(err)
	}
	s.detach(o)
	for _, dir := range []string{volumes, run} {
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}
