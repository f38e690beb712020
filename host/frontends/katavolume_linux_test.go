package frontends

import (
	"context"
	"encoding/base64"
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

// TestKataVolumeAbandoned wants a note that no agent knows any more to give way, once nobody has its device.
func TestKataVolumeAbandoned(t *testing.T) {
	s := newStage(t, ext4Disk(t))
	run, volumes, dir := t.TempDir(), t.TempDir(), t.TempDir()
	next := func() *KataVolume {
		return &KataVolume{Block: Block{File: File{Keeper: s.keeper, Logger: s.log}, Runtime: run}, Volumes: volumes}
	}
	const path = "/volumes/models"
	folder := filepath.Join(volumes, base64.URLEncoding.EncodeToString([]byte(path)))
	lost := func(o *host.Offer) { o.ID, o.State = "b2", nil }
	refused := func(why string) {
		t.Helper()
		if _, err := s.offer(next(), path, "", lost); !errors.As(err, new(host.SpecError)) {
			t.Errorf("%s: %v, want it refused", why, err)
		}
	}
	f := next()
	s.must(s.offer(f, path, "", nil))
	refused("served by another process")
	var m kataMount
	text, err := os.ReadFile(filepath.Join(folder, kataNote))
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err != nil {
		t.Fatal(err)
	}
	used, err := loopmount.MountDevice(m.Device, dir, false)
	if err != nil {
		t.Fatal(err)
	}
	s.release(f).Close() // and what the agent knew of it is lost
	refused("mounted")
	if err := unix.Unmount(used.Dir, 0); err != nil {
		t.Fatal(err)
	}
	sandbox := filepath.Join(folder, "sandbox-1")
	if err := os.WriteFile(sandbox, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	refused("a sandbox has it")
	if err := os.Remove(sandbox); err != nil {
		t.Fatal(err)
	}
	var o host.Offered
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) { // who looks at new devices may have it open
		if o, err = s.offer(next(), path, "", lost); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	if names, err := os.ReadDir(run); err != nil || len(names) != 2 { // a file's folder and a link
		t.Errorf("left of the one before: %v, %v", names, err)
	}
	if err := o.Detach(t.Context(), false); err != nil {
		t.Fatal(err)
	}

	// Of a device that is not ours, nothing is known.
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	foreign, err := loopmount.Attach(t.Context(), file, loopmount.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = foreign.Close() }()
	v := &offeredVolume{Offered: &offeredBlock{device: foreign.Device}, folder: folder}
	if err := v.note(false); err != nil {
		t.Fatal(err)
	}
	refused("a device of somebody else's")
}
