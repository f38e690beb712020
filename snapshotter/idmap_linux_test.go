package snapshotter

import (
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
)

// TestIDMap looks at containers with users of their own: files of the image and of their
// own belong to those, and what they write too.
func TestIDMap(t *testing.T) {
	s := newSite(t)
	s.cfg.RemapIDs = true
	s.restart()
	x := s.push("x", layerA)
	s.disks.publish(x)
	s.mustPull(x)
	_, _, err := s.container(x.top(), nil) // keeps the image
	check(t, err)
	labels := map[string]string{snapshots.LabelSnapshotUIDMapping: "0:100000:65536", snapshots.LabelSnapshotGIDMapping: "0:200000:65536"}
	for _, writable := range []string{"overlay", "disk"} {
		labels[LabelWritable] = writable
		key, mounts, err := s.container(x.top(), labels)
		check(t, err)
		given := slices.Clone(mounts[0].Options) // mounting changes them
		for _, want := range []string{"uidmap=0:100000:65536", "gidmap=0:200000:65536"} {
			if !slices.Contains(mounts[0].Options, want) {
				t.Errorf("%s: %v lacks %s", writable, mounts, want)
			}
		}
		if writable == "disk" { // a folder in memory takes the place of the disk in this test
			s.collect(key)
			continue
		}
		check(t, mount.WithTempMount(t.Context(), mounts, func(root string) error {
			for _, name := range []string{"a", ""} {
				info, err := os.Stat(filepath.Join(root, name))
				if err != nil {
					return err
				}
				if st := info.Sys().(*syscall.Stat_t); st.Uid != 100000 || st.Gid != 200000 {
					t.Errorf("%q is of %d:%d", name, st.Uid, st.Gid)
				}
			}
			return nil
		}))
		if again := s.mountsOf(key); !slices.Equal(again[0].Options, given) {
			t.Errorf("the mounts are %v, were %v", again, given)
		}
		s.collect(key)
	}
	for _, bad := range []string{"", "0:1", "1:5:10", "a:b:c", "0:1:2:3", "0:99999999999:1", "0:5:0"} {
		labels[snapshots.LabelSnapshotUIDMapping] = bad
		if _, _, err := s.container(x.top(), labels); err == nil {
			t.Errorf("map %q was taken", bad)
		}
	}
	s.cfg.RemapIDs = false
	s.restart()
	if _, mounts, err := s.container(x.top(), labels); err != nil || slices.ContainsFunc(mounts[0].Options, func(o string) bool { return o == "gidmap=0:200000:65536" }) {
		t.Errorf("mapped twice: %v, %v", mounts, err)
	}
}

// FuzzIDMap reads any map.
func FuzzIDMap(f *testing.F) {
	f.Add("0:100000:65536,65536:1:1")
	f.Fuzz(func(t *testing.T, text string) {
		if root, err := rootOf(text); err == nil && root < 0 {
			t.Errorf("root is %d", root)
		}
	})
}
