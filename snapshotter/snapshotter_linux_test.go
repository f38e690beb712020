package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// TestSuite is containerd's own.
func TestSuite(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts")
	}
	if testing.Short() {
		t.Skip("each of these tests is one goroutine")
	}
	// By that name it leaves out renaming a directory of a layer below, which overlayfs
	// refuses unless it is set up for that.
	testsuite.SnapshotterSuite(t, "overlayfs", func(_ context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		s, err := New(Config{Root: root})
		if err != nil {
			return nil, nil, err
		}
		return s, s.Close, nil
	})
}

var (
	layerA = tree{"a": "one", "d/a": "in a directory", "d/gone": "until b", "many/1": "1", "many/2": "2"}
	layerB = tree{"b": "two", "d/.wh.gone": "", "a": "one, changed"}
	layerX = tree{"x": "three", ".wh.many": ""}
	layerY = tree{"y": "four", "d/y": "beside a"}
)

// TestLazy pulls an image without downloading it, runs it, restarts everything with
// the registry and the store gone, and removes it.
func TestLazy(t *testing.T) {
	s := newSite(t)
	x := s.push("x", layerA, layerB, layerX)
	s.disks.publish(x)
	s.mustPull(x)
	first := s.run(x.top(), x.tree())
	second := s.run(x.top(), x.tree())
	before := s.mountsOf(first)
	if n := s.disks.count(); n != 1 {
		t.Errorf("%d disks are mounted for two containers of one image", n)
	}
	if len(before) != 1 || before[0].Type != "overlay" || !strings.Contains(strings.Join(before[0].Options, " ")+" ", "lowerdir="+s.sn.diskDir(x.top())+" ") {
		t.Errorf("mounts are %v", before)
	}

	ctx, sn := s.in("test")
	view, err := sn.View(ctx, "view", string(x.top()))
	check(t, err)
	s.look(view, x.tree())
	if want := []mount.Mount{{Type: "bind", Source: s.sn.diskDir(x.top()), Options: []string{"ro", "rbind"}}}; !reflect.DeepEqual(view, want) {
		t.Errorf("view is %v, want %v", view, want)
	}

	s.set(true, nil)
	s.disks.fail(errors.New("the store is gone"), errors.New("the store is gone"), false)
	s.restart()
	if after := s.mountsOf(first); !reflect.DeepEqual(after, before) {
		t.Errorf("mounts are %v after a restart, were %v", after, before)
	}
	s.look(s.mountsOf(second), x.tree().with(tree{"written": "x"}))
	third := s.run(x.top(), x.tree())

	ctx, sn = s.in("test")
	if u, err := sn.Usage(ctx, string(x.top())); err != nil || u.Size != 0 {
		t.Errorf("an image that was not downloaded uses %+v, %v", u, err)
	}
	if u, err := sn.Usage(ctx, first); err != nil || u.Size < 1 || u.Inodes != 2 {
		t.Errorf("a container that wrote a file uses %+v, %v", u, err)
	}
	if n := s.downloaded(x); n != 0 {
		t.Errorf("%d layers were downloaded", n)
	}
	s.collect(first, "view")
	if s.disks.count() != 1 {
		t.Error("the disk is gone under containers")
	}
	s.collect(second, third)
	if s.disks.count() != 0 {
		t.Error("the disk stays mounted")
	}
	for _, dir := range []string{snapshotsDir, disksDir} {
		if left, err := os.ReadDir(filepath.Join(s.cfg.Root, dir)); err != nil || len(left) != 0 {
			t.Errorf("%s has %v left, %v", dir, left, err)
		}
	}
}

// TestPinned finds the disk by the manifest that a reference names, as BuildKit has it, which also has names of its
// own for layers; and by nothing that the image says, as no chain ID tells then whose disk it is.
func TestPinned(t *testing.T) {
	own := func(labels map[string]string) {
		labels[snapshots.LabelSnapshotRef] = "buildkit-" + strings.ReplaceAll(labels[snapshots.LabelSnapshotRef], ":", "-")
	}
	pinned := func(labels map[string]string) {
		labels[labelReference] += "@" + labels[labelManifest]
		delete(labels, labelManifest)
	}
	for what, change := range map[string][]func(map[string]string){"chain IDs": {pinned}, "names": {pinned, own}} {
		t.Run(what, func(t *testing.T) {
			s := newSite(t)
			x := s.push("x", layerA, layerB, layerX)
			s.disks.publish(x)
			var names []string
			unpacked, err := s.pull("test", x, append(change, func(labels map[string]string) {
				names = append(names, labels[snapshots.LabelSnapshotRef])
			})...)
			check(t, err)
			if len(unpacked) > 0 || s.downloaded(x) > 0 {
				t.Errorf("unpacked %v", unpacked)
			}
			s.run(digest.Digest(names[len(names)-1]), x.tree())
		})
	}
	s := newSite(t)
	x, y := s.push("x", layerA, layerB, layerX), s.push("y", layerA, layerY)
	s.disks.publish(x)
	unpacked, err := s.pull("test", y, own, func(labels map[string]string) { labels[labelManifest] = string(x.manifest) })
	check(t, err)
	if len(unpacked) != 2 {
		t.Errorf("by an image's own words, of %d layers %v were unpacked", len(y.layers), unpacked)
	}
}

// TestSharedPrefix has two images with common layers, in both orders, each with a
// disk or without: whatever came first, containers of both see their own files,
// and nothing is downloaded that a disk has.
func TestSharedPrefix(t *testing.T) {
	images := map[string][]tree{"x": {layerA, layerB, layerX}, "y": {layerA, layerB, layerY}, "prefix": {layerA, layerB}, "lowest": {layerA}}
	for _, c := range []struct {
		first, second     string
		firstBy, secondBy string // disk or layers
		unpacked          [2]int // layers that containerd had to unpack
		downloaded        int    // layers that the snapshotter had to download
		disks             int    // mounted in the end
	}{
		{"x", "y", "disk", "disk", [2]int{0, 0}, 0, 2},
		{"x", "y", "disk", "layers", [2]int{0, 1}, 2, 1},
		{"x", "y", "layers", "disk", [2]int{3, 0}, 0, 1},
		{"x", "y", "layers", "layers", [2]int{3, 1}, 0, 0},

		{"x", "prefix", "disk", "disk", [2]int{0, 0}, 0, 2},
		{"x", "prefix", "disk", "layers", [2]int{0, 0}, 2, 1},
		{"x", "prefix", "layers", "disk", [2]int{3, 0}, 0, 0}, // it is there, unpacked
		{"x", "prefix", "layers", "layers", [2]int{3, 0}, 0, 0},

		{"prefix", "x", "disk", "disk", [2]int{0, 0}, 0, 2},
		{"prefix", "x", "disk", "layers", [2]int{0, 1}, 0, 1}, // unpacked over the disk
		{"prefix", "x", "layers", "disk", [2]int{2, 0}, 0, 1},
		{"prefix", "x", "layers", "layers", [2]int{2, 1}, 0, 0},

		{"x", "lowest", "disk", "layers", [2]int{0, 0}, 1, 1},
		{"lowest", "x", "disk", "layers", [2]int{0, 2}, 0, 1},
		{"lowest", "x", "layers", "disk", [2]int{1, 0}, 0, 1},
	} {
		t.Run(fmt.Sprintf("%s by %s then %s by %s", c.first, c.firstBy, c.second, c.secondBy), func(t *testing.T) {
			if testing.Short() && c.downloaded == 0 {
				t.Skip("one goroutine, which downloads nothing")
			}
			s := newSite(t)
			pair := [2]*image{s.push(c.first, images[c.first]...), s.push(c.second, images[c.second]...)}
			for i, by := range []string{c.firstBy, c.secondBy} {
				if by == "disk" {
					s.disks.publish(pair[i])
				}
			}
			for i, img := range pair {
				unpacked, err := s.pull("test", img)
				check(t, err)
				if len(unpacked) != c.unpacked[i] {
					t.Errorf("%s: unpacked %v, want %d layers", img.reference, unpacked, c.unpacked[i])
				}
				s.run(img.top(), img.tree())
			}
			for range 2 { // and after a restart
				for _, img := range pair {
					s.run(img.top(), img.tree())
				}
				s.restart()
			}
			s.mu.Lock()
			fetched := 0
			for _, d := range s.fetched {
				for _, img := range pair[:1] { // the second one's common layers are the first one's
					for n, blob := range img.blobs {
						if d == blob && n < 2 {
							fetched++
						}
					}
				}
			}
			s.mu.Unlock()
			if fetched != c.downloaded {
				t.Errorf("%d layers were downloaded, want %d", fetched, c.downloaded)
			}
			if n := s.disks.count(); n != c.disks {
				t.Errorf("%d disks are mounted, want %d", n, c.disks)
			}
		})
	}
}

// TestRemovedInEitherOrder removes one of two images on a common base, then the
// other.
func TestRemovedInEitherOrder(t *testing.T) {
	for _, first := range []int{0, 1} {
		t.Run(fmt.Sprint(first), func(t *testing.T) {
			s := newSite(t)
			pair := []*image{s.push("x", layerA, layerB, layerX), s.push("y", layerA, layerB, layerY)}
			s.disks.publish(pair...)
			var keys []string
			for _, img := range pair {
				s.mustPull(img)
				keys = append(keys, s.run(img.top(), img.tree()))
			}
			s.collect(keys[first])
			if n := s.disks.count(); n != 1 {
				t.Errorf("%d disks are left, want one", n)
			}
			stays := pair[1-first]
			s.run(stays.top(), stays.tree())
			s.look(s.mountsOf(keys[1-first]), stays.tree().with(tree{"written": "x"}))
		})
	}
}

// TestNamespaces pulls an image into two of containerd's namespaces.
func TestNamespaces(t *testing.T) {
	s := newSite(t)
	x := s.push("x", layerA, layerB, layerX)
	s.disks.publish(x)
	for _, ns := range []string{"test", "other", "third"} {
		if unpacked, err := s.pull(ns, x); err != nil || len(unpacked) != 0 {
			t.Fatalf("%s: unpacked %v, %v", ns, unpacked, err)
		}
	}
	s.run(x.top(), x.tree())
	n := 0
	check(t, s.sn.Walk(t.Context(), func(context.Context, snapshots.Info) error { n++; return nil }, "kind==committed"))
	if n != 3 {
		t.Errorf("%d layers for three namespaces, want 3", n)
	}
}

// TestFallback unpacks what cannot be read lazily.
func TestFallback(t *testing.T) {
	broken := errors.New("broken")
	forged := func(key, value string) func(map[string]string) {
		return func(labels map[string]string) { labels[key] = value }
	}
	for _, c := range []struct {
		name        string
		find, mount error
		hang        bool
		labels      func(map[string]string)
	}{
		{name: "finder", find: broken},
		{name: "mounter", mount: broken},
		{name: "patience", hang: true},
		{name: "no manifest", labels: forged(labelManifest, "")},
		{name: "no reference", labels: forged(labelReference, "")},
		{name: "manifest that is no digest", labels: forged(labelManifest, "sha256:../../x")},
		{name: "manifest of another image", labels: forged(labelManifest, string(digest.FromString("other")))},
		{name: "reference that is none", labels: forged(labelReference, "UPPER/../case")},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			x := s.push("x", layerA, layerB, layerX)
			s.disks.publish(x)
			s.disks.fail(c.find, c.mount, c.hang)
			if c.hang {
				s.sn.cfg.Patience = time.Millisecond
			}
			if c.labels == nil {
				c.labels = func(map[string]string) {}
			}
			unpacked, err := s.pull("test", x, c.labels)
			check(t, err)
			if len(unpacked) < 2 {
				t.Errorf("unpacked %v", unpacked)
			}
			s.run(x.top(), x.tree())
		})
	}
}

// TestForgedLabel believes no label of an image's: a layer that says it is remote
// has its files all the same.
func TestForgedLabel(t *testing.T) {
	s := newSite(t)
	x := s.push("x", layerA, layerB)
	unpacked, err := s.pull("test", x, func(labels map[string]string) { labels[labelRemote] = "rivulet" })
	check(t, err)
	if len(unpacked) != 2 {
		t.Errorf("unpacked %v", unpacked)
	}
	s.run(x.top(), x.tree())
}

// TestOtherImagesDisk is given the labels of one image with the layers of another.
func TestOtherImagesDisk(t *testing.T) {
	s := newSite(t)
	x, y := s.push("x", layerA, layerB, layerX), s.push("y", layerY, layerB, layerX)
	s.disks.publish(x)
	unpacked, err := s.pull("test", y, func(labels map[string]string) { labels[labelManifest] = string(x.manifest) })
	check(t, err)
	if len(unpacked) != 3 {
		t.Errorf("unpacked %v", unpacked)
	}
	s.run(y.top(), y.tree())
}

// TestDiskIsGone downloads an image whose disk its store has no more.
func TestDiskIsGone(t *testing.T) {
	s := newSite(t)
	x := s.push("x", layerA, layerB, layerX)
	s.disks.publish(x)
	s.mustPull(x)
	check(t, s.disks.Unmount(t.Context(), s.sn.diskDir(x.top())))
	s.disks.unpublish()
	s.restart()
	key := s.run(x.top(), x.tree())
	if n := s.downloaded(x); n != 3 {
		t.Errorf("%d layers were downloaded, want 3", n)
	}
	ctx, sn := s.in("test")
	if u, err := sn.Usage(ctx, string(x.top())); err != nil || u.Size == 0 {
		t.Errorf("a layer that was downloaded uses %+v, %v", u, err)
	}
	s.collect(key)
	if left, err := os.ReadDir(s.sn.dir("")); err != nil || len(left) != 0 {
		t.Errorf("%v is left, %v", left, err)
	}
}

// TestAgentIsAway says that a disk cannot be had at present, and downloads nothing.
func TestAgentIsAway(t *testing.T) {
	s := newSite(t)
	x := s.push("x", layerA, layerB)
	s.disks.publish(x)
	s.mustPull(x)
	check(t, s.disks.Unmount(t.Context(), s.sn.diskDir(x.top())))
	s.disks.fail(nil, errors.New("no agent answers"), false)
	ctx, sn := s.in("test")
	if _, err := sn.Prepare(ctx, "c", string(x.top())); !errdefs.IsUnavailable(err) {
		t.Errorf("prepare: %v, want that it is unavailable", err)
	}
	s.disks.fail(nil, nil, false)
	s.run(x.top(), x.tree())
	if n := s.downloaded(x); n != 0 {
		t.Errorf("%d layers were downloaded", n)
	}
}

// TestManyAtOnce starts many containers of an image that has to be downloaded after
// all, each layer once.
func TestManyAtOnce(t *testing.T) {
	s := newSite(t)
	x, prefix := s.push("x", layerA, layerB, layerX), s.push("prefix", layerA, layerB)
	s.disks.publish(x)
	s.mustPull(x)
	ctx, sn := s.in("test")
	done := make(chan error)
	const n = 8
	for i := range n {
		go func() {
			_, err := sn.Prepare(ctx, fmt.Sprint("many", i), string(prefix.top()))
			done <- err
		}()
	}
	for range n {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	s.look(s.mountsOf("many0"), prefix.tree())
	if got := s.downloaded(prefix); got != 2 {
		t.Errorf("%d layers were downloaded, want 2", got)
	}
}

// TestDownload has a layer's download fail in every way, and leaves nothing behind
// but what makes the next one work.
func TestDownload(t *testing.T) {
	s := newSite(t)
	x, prefix := s.push("x", layerA, layerB, layerX), s.push("prefix", layerA, layerB)
	s.disks.publish(x)
	s.mustPull(x)
	ctx, sn := s.in("test")
	for what, set := range map[string]func(){
		"registry is away": func() { s.set(true, nil) },
		"damaged":          func() { s.set(false, func(b []byte) []byte { b[len(b)/2] ^= 1; return b }) },
		"cut short":        func() { s.set(false, func(b []byte) []byte { return b[:len(b)/2] }) },
		"too long":         func() { s.set(false, func(b []byte) []byte { return append(b, 0) }) },
		"of another layer": func() { s.set(false, func([]byte) []byte { return layerY.archive() }) },
	} {
		set()
		if _, err := sn.Prepare(ctx, s.key("c"), string(prefix.top())); !errdefs.IsUnavailable(err) {
			t.Errorf("%s: prepare: %v, want that it is unavailable", what, err)
		}
		dirs, err := filepath.Glob(s.sn.dir("*/*"))
		check(t, err)
		for _, dir := range dirs {
			if filepath.Base(dir) != recordFile {
				t.Errorf("%s: %s is left", what, dir)
			}
		}
	}
	s.set(false, nil)
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := sn.Prepare(canceled, s.key("c"), string(prefix.top())); err == nil {
		t.Error("prepared for somebody who is gone")
	}
	// What a killed process leaves.
	dirs, err := filepath.Glob(s.sn.dir("*"))
	check(t, err)
	for _, dir := range dirs {
		tree{"half/a/file": "x"}.write(t, filepath.Join(dir, newFiles))
	}
	s.restart()
	s.run(prefix.top(), prefix.tree())
}

// TestRolledBack finds what a transaction has left that came to nothing.
func TestRolledBack(t *testing.T) {
	s := newSite(t)
	tree{"fs/stale": "x", "layer": "nonsense"}.write(t, s.sn.dir("1"))
	tree{"fs/stale": "x"}.write(t, s.sn.dir("removed-0"))
	x := s.push("x", layerA)
	s.mustPull(x, 0)
	s.run(x.top(), x.tree())
	check(t, s.sn.Cleanup(t.Context()))
	if left, err := os.ReadDir(s.sn.dir("")); err != nil || len(left) != 2 {
		t.Errorf("%v is left, %v", left, err)
	}
}

func TestConfig(t *testing.T) {
	for _, bad := range []Config{
		{Root: t.TempDir(), Finder: &Agent{}},
		{Root: t.TempDir(), Mounter: &Agent{}},
		{Root: filepath.Join(t.TempDir(), "a,b")},
		{Root: filepath.Join(t.TempDir(), "a:b")},
		{Root: "/dev/null/x"},
	} {
		if s, err := New(bad); err == nil {
			_ = s.Close()
			t.Errorf("%+v was taken", bad)
		}
	}
}

// TestEmpty asks before there is anything.
func TestEmpty(t *testing.T) {
	s, err := New(Config{Root: t.TempDir()})
	check(t, err)
	defer func() { check(t, s.Close()) }()
	check(t, s.Cleanup(t.Context()), s.Walk(t.Context(), func(context.Context, snapshots.Info) error { return errors.New("there is one") }))
	if _, err := s.Stat(t.Context(), "x"); !errdefs.IsNotFound(err) {
		t.Errorf("stat: %v", err)
	}
	if _, err := s.Mounts(t.Context(), "x"); !errdefs.IsNotFound(err) {
		t.Errorf("mounts: %v", err)
	}
	if _, err := s.Prepare(t.Context(), "x", "nosuch"); !errdefs.IsNotFound(err) {
		t.Errorf("prepare: %v", err)
	}
}
