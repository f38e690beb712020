package snapshotter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// container prepares a container with labels.
func (s *site) container(chain digest.Digest, labels map[string]string) (key string, mounts []mount.Mount, err error) {
	ctx, sn := s.in("test")
	key = s.key("container")
	all := map[string]string{"containerd.io/gc.root": "now"}
	for k, v := range labels {
		all[k] = v
	}
	mounts, err = sn.Prepare(ctx, key, string(chain), snapshots.WithLabels(all))
	return key, mounts, err
}

// TestWish: labels choose what a container writes to, and lower the quota of the configuration, but
// neither raise it nor get away from it.
func TestWish(t *testing.T) {
	const own, low, high = 1 << 20, 1 << 10, 1 << 30
	size := func(n int) map[string]string {
		return map[string]string{snapshots.LabelSnapshotMaxSize: strconv.Itoa(n)}
	}
	kind := func(w Writable) map[string]string { return map[string]string{LabelWritable: string(w)} }
	for _, c := range []struct {
		configured Writable
		quota      int64
		labels     map[string]string
		want       Writable
		room       int64
	}{
		{WritableDisk, own, nil, WritableDisk, own},
		{WritableDisk, own, size(low), WritableDisk, low},
		{WritableDisk, own, size(high), WritableDisk, own},
		{WritableDisk, own, kind(WritableOverlay), WritableDisk, own},
		{WritableDisk, own, kind(WritableBlock), WritableBlock, own},
		{WritableDisk, 0, size(high), WritableDisk, high},
		{WritableDisk, 0, kind(WritableOverlay), WritableOverlay, 0},
		{WritableOverlay, own, size(high), WritableDisk, own},
		{WritableOverlay, own, kind(WritableDisk), WritableDisk, own},
		{WritableOverlay, 0, size(high), WritableDisk, high},
	} {
		s := &Snapshotter{cfg: Config{Writable: c.configured, Room: c.quota}}
		if w, room := s.wishOf(c.labels); w != c.want || room != c.room {
			t.Errorf("%s with %d and %v: %s with %d, want %s with %d", c.configured, c.quota, c.labels, w, room, c.want, c.room)
		}
	}
}

// TestOwnDisk has containers write to disks of their own, over a restart, until they are
// removed.
func TestOwnDisk(t *testing.T) {
	s := newSite(t)
	x := s.push("x", layerA, layerX)
	s.disks.publish(x)
	s.mustPull(x)
	plain := s.push("plain", layerY)
	s.mustPull(plain, 0)
	for _, i := range []*image{x, plain} { // which keeps its layers
		_, _, err := s.container(i.top(), nil)
		check(t, err)
	}

	for _, c := range []struct {
		labels map[string]string
		image  *image
		room   int64 // -1: an overlay
	}{
		{nil, x, -1},
		{map[string]string{LabelWritable: "disk"}, x, 0},
		{map[string]string{LabelWritable: "disk", snapshots.LabelSnapshotMaxSize: "1048576"}, x, 1 << 20},
		{map[string]string{snapshots.LabelSnapshotMaxSize: "1048576"}, x, 1 << 20},
		{map[string]string{snapshots.LabelSnapshotMaxSize: "1048576", LabelWritable: "overlay"}, x, -1},
		{map[string]string{snapshots.LabelSnapshotMaxSize: "much"}, x, -1},
		{map[string]string{LabelWritable: "disk"}, plain, -1},
	} {
		key, mounts, err := s.container(c.image.top(), c.labels)
		check(t, err)
		s.look(mounts, c.image.tree())
		if bound := mounts[0].Type == "bind"; bound != (c.room >= 0) && c.image == x {
			t.Errorf("%v: mounts are %v", c.labels, mounts)
		}
		if c.room < 0 {
			if len(s.disks.writes) != 0 {
				t.Errorf("%v: a disk is mounted", c.labels)
			}
			s.collect(key)
			continue
		}
		var w Writes
		for _, w = range s.disks.writes {
		}
		if len(s.disks.writes) != 1 || w.Room != c.room {
			t.Errorf("%v: mounted with %+v", c.labels, s.disks.writes)
		}
		check(t, mount.WithTempMount(t.Context(), mounts, func(root string) error {
			return errors.Join(os.Remove(filepath.Join(root, "a")), os.WriteFile(filepath.Join(root, "written"), bytes.Repeat([]byte("x"), 100<<10), 0o644))
		}))
		s.restart()
		if again := s.mountsOf(key); !reflect.DeepEqual(again, mounts) {
			t.Errorf("after a restart the mounts are %v, were %v", again, mounts)
		}
		ctx, sn := s.in("test")
		if u, err := sn.Usage(ctx, key); err != nil || u.Size < 100<<10 {
			t.Errorf("it uses %+v, %v", u, err)
		}
		// What becomes a layer is whole, and nothing below it is looked at.
		check(t, sn.Commit(ctx, key+"-layer", key, snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "now"})))
		top, mounts, err := s.container(digest.Digest(key+"-layer"), map[string]string{LabelWritable: "overlay"})
		check(t, err)
		want := x.tree().with(tree{".wh.a": "", "written": string(bytes.Repeat([]byte("x"), 100<<10))})
		s.look(mounts, want)
		s.collect(top, key+"-layer")
		if left, err := filepath.Glob(filepath.Join(s.cfg.Root, snapshotsDir, "*", writesDir)); err != nil || len(left) != 0 || len(s.disks.writes) != 0 {
			t.Errorf("%v: left are %v, %+v, %v", c.labels, left, s.disks.writes, err)
		}
	}

	// By the configuration, and when it cannot be mounted.
	s.cfg.Writable, s.cfg.Room = WritableDisk, 7
	s.restart()
	key, _, err := s.container(x.top(), nil)
	check(t, err)
	if len(s.disks.writes) != 1 {
		t.Errorf("by the configuration: %+v", s.disks.writes)
	}
	s.collect(key)
	s.disks.fail(nil, errors.New("it fails"), false)
	if _, _, err := s.container(x.top(), nil); err == nil {
		t.Error("what fails is no error")
	}
	s.disks.fail(nil, nil, false)
	check(t, s.sn.Cleanup(t.Context()))
	entries, err := os.ReadDir(filepath.Join(s.cfg.Root, snapshotsDir))
	check(t, err)
	if len(entries) != 5 { // the layers, and what keeps them
		t.Errorf("left: %v", entries)
	}
}

// TestRemovedMeanwhile removes a container while the disk of another one is taken down: its own
// stays whole until it is down, too.
func TestRemovedMeanwhile(t *testing.T) {
	s := newSite(t)
	x := s.push("x", layerA, layerX)
	s.disks.publish(x)
	s.mustPull(x)
	_, _, err := s.container(x.top(), nil) // keeps the image
	check(t, err)
	own := map[string]string{LabelWritable: "disk"}
	first, _, err := s.container(x.top(), own)
	check(t, err)
	second, _, err := s.container(x.top(), own)
	check(t, err)
	ctx, sn := s.in("test")
	s.disks.meanwhile = func() { // as the collector may, at any time
		var key string
		check(t, s.sn.Walk(t.Context(), func(_ context.Context, info snapshots.Info) error {
			if strings.HasSuffix(info.Name, "/"+second) {
				key = info.Name
			}
			return nil
		}))
		check(t, s.sn.Remove(t.Context(), key))
	}
	check(t, sn.Remove(ctx, first))
	_, err = s.db.GarbageCollect(t.Context())
	check(t, err)
	for dir := range s.disks.writes {
		if _, err := os.Stat(filepath.Join(dir, "a")); err != nil {
			t.Errorf("what is mounted was removed: %v", err)
		}
	}
	if len(s.disks.writes) != 1 {
		t.Errorf("mounted are %v, want the one that went meanwhile", s.disks.writes)
	}
	check(t, s.sn.Cleanup(t.Context()))
	if left, err := filepath.Glob(filepath.Join(s.cfg.Root, snapshotsDir, "*", writesDir)); err != nil || len(left) != 0 || len(s.disks.writes) != 0 {
		t.Errorf("left are %v, %v, %v", left, s.disks.writes, err)
	}
}

// TestOwnDevice has a container whose only mount is ext4 on a block device.
func TestOwnDevice(t *testing.T) {
	s := newSite(t)
	x := s.push("x", layerA, layerX)
	s.disks.publish(x)
	s.mustPull(x)
	_, _, err := s.container(x.top(), nil) // keeps the image
	check(t, err)
	key, mounts, err := s.container(x.top(), map[string]string{LabelWritable: "block", snapshots.LabelSnapshotMaxSize: "5"})
	check(t, err)
	want := []mount.Mount{{Type: "ext4", Source: "/dev/fake-" + s.disks.published[0].Digest.Encoded(), Options: []string{"rw"}}}
	if !reflect.DeepEqual(mounts, want) {
		t.Errorf("mounts are %v, want %v", mounts, want)
	}
	s.restart()
	if again := s.mountsOf(key); !reflect.DeepEqual(again, want) {
		t.Errorf("after a restart they are %v", again)
	}
	for _, w := range s.disks.devices {
		if w.Room != 5 {
			t.Errorf("room is %d", w.Room)
		}
	}
	ctx, sn := s.in("test")
	if u, err := sn.Usage(ctx, key); err != nil || u.Inodes != 0 { // nobody knows
		t.Errorf("it uses %+v, %v", u, err)
	}
	if err := sn.Commit(ctx, "layer", key); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("committed what cannot be read: %v", err)
	}
	s.collect(key)
	if len(s.disks.devices) != 0 {
		t.Errorf("left are %v", s.disks.devices)
	}
}

// FuzzWritesNote reads any note, and what it is written as again.
func FuzzWritesNote(f *testing.F) {
	f.Add([]byte(fmt.Sprintf(`{"version": 1, "chain": %q, "disk": {"store": "dir:/a", "digest": %[1]q}, "room": 5}`, digest.FromString("a"))))
	f.Add([]byte(`{"version": 1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := parseWritesNote(b)
		if err != nil {
			return
		}
		dir := t.TempDir()
		check(t, n.write(dir))
		if again, err := readWritesNote(dir); err != nil || *again != *n {
			t.Errorf("%+v is written as %+v, %v", n, again, err)
		}
	})
}
