package ext4

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// fillMounted makes files that need root or the kernel's ext4.
func fillMounted(t *testing.T, dir string) {
	t.Helper()
	path := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.Mkdir(path("many"), 0o1777))
	for i := range 10_000 {
		must(t, os.WriteFile(path(fmt.Sprintf("many/file ünter %d", i)), nil, 0o600))
	}
	must(t, syscall.Mknod(path("char"), syscall.S_IFCHR|0o620, 5<<8|1))
	must(t, syscall.Mknod(path("block"), syscall.S_IFBLK|0o600, 300<<8|77))
	must(t, syscall.Mkfifo(path("fifo"), 0o644))
	must(t, os.WriteFile(path("setuid"), []byte("x"), 0o755))
	must(t, os.Chown(path("setuid"), 70000, 123456789))
	must(t, os.Chmod(path("setuid"), fs.ModeSetuid|0o755))
	for i := range 8 {
		value := bytes.Repeat([]byte{byte(i)}, 25*i)
		must(t, syscall.Setxattr(path("setuid"), fmt.Sprintf("user.%d", i), value, 0))
		must(t, syscall.Setxattr(path("many"), fmt.Sprintf("trusted.%d", i), value, 0))
	}
	f, err := os.Create(path("pieces"))
	must(t, err)
	defer f.Close()
	for i := range int64(2000) {
		_, err := f.WriteAt([]byte{1, 2, 3}, i*3*4096)
		must(t, err)
	}
	if err := syscall.Fallocate(int(f.Fd()), 0, 30<<20, 5<<20); err != syscall.EOPNOTSUPP { // which is so without extents
		must(t, err)
	}
	_, err = f.WriteAt([]byte("written"), 32<<20)
	must(t, err)
	must(t, f.Close()) // or the file system stays busy
	if setfacl, err := exec.LookPath("setfacl"); err == nil {
		out, err := exec.Command(setfacl, "-m", "u:77:rwx,g:88:r,d:u:99:x", path("many")).CombinedOutput()
		if err != nil {
			t.Fatalf("setfacl: %v: %s", err, out)
		}
	}
}

// What the kernel wrote reads as the kernel reads it.
func TestReadMounted(t *testing.T) {
	sequential(t)
	for _, args := range [][]string{{"-b", "4096"}, {"-b", "1024"}, {"-b", "1024", "-O", "^extent,^64bit"}, {"-O", "inline_data"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			_, disk := makeImage(t, "96m", append([]string{"-t", "ext4", "-N", "12000"}, args...)...)
			dir := mountDisk(t, disk, "rw")
			fillMounted(t, dir)
			unmount(t, dir)
			dir = mountDisk(t, disk, "ro")
			fsys := openImage(t, disk)
			compareFS(t, fsys, dir)
			for _, name := range []string{".", "many", "char", "block", "fifo", "setuid", "pieces"} {
				compareSystem(t, fsys, name, filepath.Join(dir, name))
			}
		})
	}
}

func compareSystem(t *testing.T, fsys *FS, name, path string) {
	t.Helper()
	info, err := fsys.Lstat(name)
	must(t, err)
	got := info.Sys().(*Stat)
	var want syscall.Stat_t
	must(t, syscall.Lstat(path, &want))
	device := uint64(got.Minor&0xff | got.Major<<8 | got.Minor&^0xff<<12)
	if got.UID != want.Uid || got.GID != want.Gid || uint64(got.Number) != want.Ino || device != want.Rdev ||
		fmt.Sprint(got.Links) != fmt.Sprint(want.Nlink) || got.CTime != (Time{want.Ctim.Sec, uint32(want.Ctim.Nsec)}) {
		t.Errorf("%s: %+v, want %+v", name, got, want)
	}
	list, err := fsys.Xattrs(name)
	must(t, err)
	var names []string
	buf := make([]byte, 1<<16)
	for _, x := range list {
		names = append(names, x.Name)
		n, err := syscall.Getxattr(path, x.Name, buf)
		if err != nil || !bytes.Equal(buf[:n], x.Value) {
			t.Errorf("%s: attribute %q is %x, want %x, %v", name, x.Name, x.Value, buf[:max(n, 0)], err)
		}
	}
	n, err := syscall.Listxattr(path, buf)
	must(t, err)
	system := strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 })
	if slices.Sort(system); !slices.Equal(names, system) {
		t.Errorf("%s: attributes %q, want %q", name, names, system)
	}
}
