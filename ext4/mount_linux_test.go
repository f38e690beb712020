package ext4

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// mountDisk mounts a disk with the kernel's ext4.
func mountDisk(t *testing.T, disk, options string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts a loop device")
	}
	if !exists("/dev/loop-control") {
		t.Skip("needs loop devices: there is no /dev/loop-control")
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "ext4", "-o", "loop,"+options, disk, dir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if isMounted(dir) {
			unmount(t, dir)
		}
	})
	return dir
}

func isMounted(dir string) bool {
	var a, b syscall.Stat_t
	return syscall.Stat(dir, &a) == nil && syscall.Stat(filepath.Dir(dir), &b) == nil && a.Dev != b.Dev
}

// unmount returns once the loop device has let go of the disk, and all is written: who has just made a mount
// namespace has what was mounted there, too.
func unmount(t *testing.T, dir string) {
	t.Helper()
	var st syscall.Stat_t
	must(t, syscall.Stat(dir, &st))
	device := fmt.Sprintf("/sys/dev/block/%d:%d/loop/backing_file", st.Dev>>8&0xfff, st.Dev&0xff|st.Dev>>12&^0xff)
	before, err := os.ReadFile(device)
	must(t, err)
	if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
		t.Errorf("umount: %v: %s", err, out)
		return
	}
	for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		if now, err := os.ReadFile(device); err != nil || !bytes.Equal(now, before) {
			return
		}
		if time.Since(begun) > 30*time.Second {
			t.Fatalf("%s is still read: %s", dir, before)
		}
	}
}

// compareTree fails the test where a mounted tree is not the one of n.
func compareTree(t *testing.T, path string, n *node) {
	t.Helper()
	compareNode(t, path, n)
	switch n.inode.Mode & ModeType {
	case ModeRegular:
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, n.data) {
			t.Errorf("%q: data of %d bytes differ from %d, %v", path, len(got), len(n.data), err)
		}
	case ModeSymlink:
		if got, err := os.Readlink(path); err != nil || got != n.inode.Target {
			t.Errorf("%q: leads to %q, want %q, %v", path, got, n.inode.Target, err)
		}
	case ModeDir:
		compareDirectory(t, path, n)
	}
}

func compareDirectory(t *testing.T, path string, n *node) {
	t.Helper()
	list, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, e := range list {
		got = append(got, e.Name())
	}
	for _, e := range n.entries {
		want = append(want, e.name)
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Fatalf("%q: has %d names %.1000q, want %d names %.1000q", path, len(got), got, len(want), want)
	}
	for i, e := range n.entries {
		if len(n.entries) < 1000 || i%100 == 0 {
			compareTree(t, path+"/"+e.name, e.node)
		} else if _, err := os.Lstat(path + "/" + e.name); err != nil { // found by its hash
			t.Error(err)
		}
	}
}

func compareNode(t *testing.T, path string, n *node) {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		t.Fatalf("%q: %v", path, err)
	}
	ino := &n.inode
	links := uint64(ino.Links)
	if ino.Mode&ModeType == ModeDir {
		links = 2
		for _, e := range n.entries {
			if e.node.inode.Mode&ModeType == ModeDir {
				links++
			}
		}
	}
	device := uint64(ino.Minor&0xff | ino.Major<<8 | ino.Minor&^0xff<<12)
	got := []any{st.Ino, st.Mode, st.Uid, st.Gid, uint64(st.Nlink), st.Rdev} //nolint:unconvert // the types differ between architectures
	want := []any{uint64(ino.Number), uint32(ino.Mode), ino.UID, ino.GID, links, device}
	for _, tm := range []syscall.Timespec{st.Mtim, st.Ctim, st.Atim} {
		got = append(got, int64(tm.Sec), int64(tm.Nsec)) //nolint:unconvert // the same
		want = append(want, ino.MTime.Sec, int64(ino.MTime.Nsec))
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q: inode, mode, owners, links, device, times are\n%v, want\n%v", path, got, want)
	}
	if ino.Mode&ModeType != ModeSymlink { // the syscall package has none that stay on the link
		compareXattrs(t, path, ino.Xattrs)
	}
}

func compareXattrs(t *testing.T, path string, want []Xattr) {
	t.Helper()
	buf := make([]byte, 1<<16)
	k, err := syscall.Listxattr(path, buf)
	if err != nil {
		t.Fatalf("%q: %v", path, err)
	}
	var names []string
	if k > 0 {
		names = strings.Split(string(buf[:k-1]), "\x00")
	}
	if len(names) != len(want) {
		t.Errorf("%q: has attributes %q, want %d", path, names, len(want))
	}
	for _, x := range want {
		k, err := syscall.Getxattr(path, x.Name, buf)
		if err != nil || !bytes.Equal(buf[:max(k, 0)], x.Value) {
			t.Errorf("%q: attribute %q: %x, want %x, %v", path, x.Name, buf[:max(k, 0)], x.Value, err)
		}
	}
}

func TestMount(t *testing.T) {
	sequential(t)
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			root := randomTree(seed, 600)
			d := build(t, testConfig(), root, seed)
			compareTree(t, mountDisk(t, d.file(t), "ro,noload,noatime"), root)
		})
	}
}

// TestMountWritable writes through the kernel: into a full file system, and
// into one with groups that are not initialised.
func TestMountWritable(t *testing.T) {
	sequential(t)
	for _, groups := range []uint64{2, 40} {
		t.Run(fmt.Sprint(groups, " groups"), func(t *testing.T) {
			c := testConfig()
			c.Blocks, c.InodesPerGroup = groups*BlocksPerGroup, 512
			root := randomTree(7, 400)
			disk := build(t, c, root, 1).file(t)
			dir := mountDisk(t, disk, "noatime")
			compareTree(t, dir, root)
			for i := range 250 {
				sub := fmt.Sprintf("%s/new%d", dir, i)
				must(t, os.Mkdir(sub, 0o755))
				must(t, os.WriteFile(sub+"/file", bytes.Repeat([]byte{1}, i*1000), 0o644))
			}
			for _, e := range root.entries[:len(root.entries)/2] {
				must(t, os.RemoveAll(dir+"/"+e.name))
			}
			unmount(t, dir)
			fsck(t, disk)
		})
	}
}
