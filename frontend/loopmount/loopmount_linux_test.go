package loopmount

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/moby/sys/mountinfo"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/internal/mountpoint"
	"github.com/rivuletfs/rivulet/internal/mountpoint/mountpointtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func needLoop(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: loop devices and mounts")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skip("needs loop devices: ", err)
	}
}

func makeImage(t *testing.T) string {
	t.Helper()
	source := t.TempDir()
	if err := os.WriteFile(filepath.Join(source, "hello"), []byte("world"), 0o644); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "an image")
	out, err := exec.Command("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-d", source, image, "8M").CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip("needs the program mke2fs")
	}
	if err != nil {
		t.Fatalf("mke2fs: %v: %s", err, out)
	}
	return image
}

// detached says whether no loop device reads a file.
func detached(t *testing.T, file string) bool {
	t.Helper()
	all, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range all {
		if b, err := os.ReadFile(name); err == nil && strings.TrimSuffix(string(b), "\n") == file {
			return false
		}
	}
	return true
}

func TestMount(t *testing.T) {
	needLoop(t)
	image := makeImage(t)
	for _, o := range []Options{{}, {BlockSize: 4096, ReadAhead: 256 << 10}, {ReadAhead: -1}} {
		dir := filepath.Join(t.TempDir(), "a dir")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		m, err := Mount(t.Context(), image, dir, o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
		if b, err := os.ReadFile(filepath.Join(dir, "hello")); err != nil || string(b) != "world" {
			t.Errorf("read: %q, %v", b, err)
		}
		if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0o600); !errors.Is(err, unix.EROFS) {
			t.Errorf("write: %v, want EROFS", err)
		}
		found, err := Find(dir)
		if err != nil || found.Dir != m.Dir || found.Device != m.Device || found.File != m.File || found.HolderType == "" || m.File != image {
			t.Errorf("found %+v, %v; mounted %+v of %s", found, err, m, image)
		}
		checkQueue(t, m.Device, o)

		f, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Unmount(t.Context()); !errors.Is(err, ErrBusy) {
			t.Errorf("unmount under an open directory: %v, want ErrBusy", err)
		}
		_ = f.Close()
		above := filepath.Dir(dir)
		if err := unix.Mount("none", above, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		err = errors.Join(os.Mkdir(dir, 0o755), found.Unmount(t.Context()))
		if covered := unix.Unmount(above, 0); !errors.Is(err, ErrBusy) || covered != nil {
			t.Errorf("unmount beneath a mount of the folder above: %v, want ErrBusy; %v", err, covered)
		}
		if err := found.Unmount(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !detached(t, image) {
			t.Error("still attached after Unmount")
		}
		if _, err := Find(dir); !errors.Is(err, ErrNotMounted) {
			t.Errorf("find after unmount: %v, want ErrNotMounted", err)
		}
	}
}

// TestMountOverDead wants nothing mounted over a FUSE session that has lost its server: who unmounts
// the file system would find it there still.
func TestMountOverDead(t *testing.T) {
	needLoop(t)
	image, dir := makeImage(t), mountpointtest.Dead(t)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{dir, link} {
		if m, err := Mount(t.Context(), image, dir, Options{}); !errors.Is(err, unix.ENOTCONN) {
			t.Errorf("mounted %+v, %v; want ENOTCONN", m, err)
		}
		if m, err := MountDevice("/dev/none", dir, false); !errors.Is(err, unix.ENOTCONN) {
			t.Errorf("mounted %+v, %v; want ENOTCONN", m, err)
		}
	}
	if table, err := mountpoint.Table(nil); err != nil || len(at(table, dir)) != 1 {
		t.Errorf("mounts: %+v, %v; want the one that was there", at(table, dir), err)
	}
	if !detached(t, image) {
		t.Error("attached still")
	}
}

// checkQueue compares the device's settings with what was asked for.
func checkQueue(t *testing.T, device string, o Options) {
	t.Helper()
	queue := "/sys/block/" + filepath.Base(device) + "/queue/"
	want := map[string]string{"logical_block_size": "512"}
	if o.BlockSize == 4096 {
		want["logical_block_size"] = "4096"
	}
	switch {
	case o.ReadAhead > 0:
		want["read_ahead_kb"] = "256"
	case o.ReadAhead < 0:
		want["read_ahead_kb"] = "0"
	}
	for name, value := range want {
		if b, err := os.ReadFile(queue + name); err != nil || strings.TrimSpace(string(b)) != value {
			t.Errorf("%s is %q, %v; want %s", name, b, err, value)
		}
	}
}

func TestAttach(t *testing.T) {
	needLoop(t)
	image := makeImage(t)
	want, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 6 { // at once: all ask for the same free device
		wg.Go(func() {
			l, err := Attach(t.Context(), image, Options{})
			if err != nil {
				t.Error(err)
				return
			}
			got, err := os.ReadFile(l.Device)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: wrong bytes, or %v", l.Device, err)
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if !detached(t, image) {
		t.Error("still attached after Close")
	}
}

// TestDetachedWhileAsked has a device let go of its file after the kernel's answer was opened, and before it was read.
func TestDetachedWhileAsked(t *testing.T) {
	needLoop(t)
	image := makeImage(t)
	l, err := Attach(t.Context(), image, Options{})
	if err != nil {
		t.Fatal(err)
	}
	answer, err := os.Open(fmt.Sprintf("/sys/block/loop%d/loop/backing_file", l.number))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Close() }()
	if err := errors.Join(l.Close(), awaitDetach(t.Context(), l.number, image)); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(answer)
	if file, err := answered(l.number, b, err); err != nil || file != "" {
		t.Errorf("reads %q, %v", file, err)
	}
}

func TestFailuresLeaveNothing(t *testing.T) {
	needLoop(t)
	noise := filepath.Join(t.TempDir(), "noise")
	if err := os.WriteFile(noise, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, err := Mount(t.Context(), noise, dir, Options{}); err == nil {
		t.Error("mounted noise")
	}
	if !detached(t, noise) {
		t.Error("device left after a failed mount")
	}
	if _, err := Mount(t.Context(), filepath.Join(dir, "no"), dir, Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("mount of no file: %v", err)
	}
	if _, err := Mount(t.Context(), noise, filepath.Join(dir, "no"), Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("mount at no directory: %v", err)
	}
	for _, d := range []string{dir, "/", "/proc"} {
		if _, err := Find(d); !errors.Is(err, ErrNotMounted) {
			t.Errorf("find at %s: %v, want ErrNotMounted", d, err)
		}
	}
}

// Something else that holds the device must not make Unmount wait for ever.
func TestUnmountGivesUp(t *testing.T) {
	needLoop(t)
	image, dir := makeImage(t), t.TempDir()
	m, err := Mount(t.Context(), image, dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(m.Device)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Unmount(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("unmount with the device held: %v, want Canceled", err)
	}
	_ = f.Close()
	if err := awaitDetach(t.Context(), mustNumber(t, m.Device), image); err != nil {
		t.Error(err)
	}
}

// TestAwaitUnmount has others rename, bind, unmount and remove the mount point.
func TestAwaitUnmount(t *testing.T) {
	needLoop(t)
	top := t.TempDir()
	dir, renamed, bound := filepath.Join(top, "a", "dir"), filepath.Join(top, "b"), filepath.Join(top, "bound")
	for _, d := range []string{dir, bound} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m, err := Mount(t.Context(), makeImage(t), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, d := range []string{dir, filepath.Join(renamed, "dir"), bound} {
			_ = unix.Unmount(d, unix.MNT_DETACH)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.AwaitUnmount(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("wait with a cancelled context: %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- m.AwaitUnmount(t.Context()) }()
	for _, step := range []func() error{
		func() error { return os.Rename(filepath.Dir(dir), renamed) },
		func() error { return unix.Mount(filepath.Join(renamed, "dir"), bound, "", unix.MS_BIND, "") },
		func() error { return unix.Unmount(filepath.Join(renamed, "dir"), 0) },
		func() error { return os.RemoveAll(renamed) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
		all, err := mountpoint.Table(nil)
		if err != nil || !slices.ContainsFunc(all, func(e *mountinfo.Info) bool { return e.Source == m.Device }) {
			t.Fatalf("not mounted: %v", err)
		}
		select {
		case err := <-ended:
			t.Fatalf("ended while mounted: %v", err)
		default:
		}
	}
	if err := unix.Unmount(bound, 0); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("AwaitUnmount: %v", err)
	}
}

// TestAwaitMany waits for several mounts at once: each wait ends with its own mount, or
// its own context, and the watcher with the last.
func TestAwaitMany(t *testing.T) {
	needLoop(t)
	image := makeImage(t)
	const n = 4
	ctx, cancel := context.WithCancel(t.Context())
	ended := make([]chan error, n)
	all := make([]*Mounted, n)
	for i := range n {
		m, err := Mount(t.Context(), image, t.TempDir(), Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(m.Dir, unix.MNT_DETACH) })
		all[i], ended[i] = m, make(chan error, 1)
		go func() { ended[i] <- m.AwaitUnmount(ctx) }()
	}
	for i := range n - 1 {
		if err := all[i].Unmount(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-ended[i]; err != nil {
			t.Errorf("wait %d: %v", i, err)
		}
		select {
		case err := <-ended[n-1]:
			t.Fatalf("a wait ended with another's mount: %v", err)
		default:
		}
	}
	if err := all[0].AwaitUnmount(t.Context()); err != nil {
		t.Errorf("wait for what is unmounted: %v", err)
	}
	cancel()
	if err := <-ended[n-1]; !errors.Is(err, context.Canceled) {
		t.Errorf("wait with a cancelled context: %v", err)
	}
	watched.mu.Lock()
	defer watched.mu.Unlock()
	if watched.watcher != nil {
		t.Error("a watcher is left, and nobody waits")
	}
}

func mustNumber(t *testing.T, device string) int {
	t.Helper()
	n, ok := loopNumber(device)
	if !ok {
		t.Fatalf("%s is no loop device", device)
	}
	return n
}
