package source

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/flatten"
)

// must fails the test at the first error.
func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// makeTree fills dir with what anybody may make.
func makeTree(t *testing.T, dir string) {
	t.Helper()
	in := func(name string) string { return filepath.Join(dir, name) }
	must(t,
		os.MkdirAll(in("d/e"), 0o755), os.Chmod(in("d"), 0o750|os.ModeSticky),
		os.WriteFile(in("d/z"), []byte("data"), 0o600), os.Link(in("d/z"), in("d/a")),
		os.WriteFile(in("d/"+strings.Repeat("ü", 100)), nil, 0o644), os.Symlink("../no/where", in("d-l")),
		unix.Mkfifo(in("p"), 0o640), os.WriteFile(in("d/.wh.gone"), []byte("x"), 0o600),
		os.WriteFile(in("old"), nil, 0o644), os.Chtimes(in("old"), time.Time{}, time.Unix(-5, 250)),
	)
	s, err := net.Listen("unix", in("s"))
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	must(t, os.Chtimes(dir, time.Time{}, time.Unix(7, 7)))
}

func readOne(t *testing.T, src string) (*Image, *flatten.Layer) {
	t.Helper()
	img, err := Open(context.Background(), []string{src}, Options{TempDir: t.TempDir()})
	must(t, err)
	f, err := os.CreateTemp(t.TempDir(), "spool")
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	l, err := img.Layers[0].Read(context.Background(), f)
	must(t, err, img.Close())
	return img, l
}

func TestDirectory(t *testing.T) {
	dir := t.TempDir()
	makeTree(t, dir)
	img, l := readOne(t, "dir:"+dir)
	var paths []string
	byPath := make(map[string]*flatten.Entry)
	for i := range l.Entries {
		paths = append(paths, l.Entries[i].Path)
		byPath[l.Entries[i].Path] = &l.Entries[i]
	}
	want := ". d d/a d/e d/z d/" + strings.Repeat("ü", 100) + " d-l old p"
	if got := strings.Join(paths, " "); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if e := byPath["d/z"]; e.Kind != flatten.Link || e.Target != "d/a" || byPath["d/a"].Size != 4 {
		t.Errorf("hard link: %+v to %+v", e, byPath["d/a"])
	}
	if byPath["."].MTime != (flatten.Time{Sec: 7, Nsec: 7}) || byPath["old"].MTime != (flatten.Time{Sec: -5, Nsec: 250}) {
		t.Errorf("times %v and %v", byPath["."].MTime, byPath["old"].MTime)
	}
	if byPath["d"].Mode != 0o1750 || byPath["p"].Kind != flatten.FIFO || byPath["d-l"].Target != "../no/where" {
		t.Errorf("attributes: %+v, %+v, %+v", byPath["d"], byPath["p"], byPath["d-l"])
	}
	if len(l.Whiteouts) != 1 || l.Whiteouts[0] != "d/gone" {
		t.Errorf("whiteouts %q", l.Whiteouts)
	}
	if again, _ := readOne(t, "dir:"+dir+"/."); again.Digest != img.Digest {
		t.Errorf("read again: digest %s, want %s", again.Digest, img.Digest)
	}
}

// GNU tar's archive of a directory stands for the same layer as the directory.
func TestDirectoryAsTar(t *testing.T) {
	if err := exec.Command("tar", "--version").Run(); err != nil {
		t.Skip("needs GNU tar:", err)
	}
	dir := t.TempDir()
	makeTree(t, dir)
	sparse := filepath.Join(dir, "sparse")
	f, err := os.Create(sparse)
	must(t, err)
	_, err = f.WriteAt([]byte("end"), 40<<20)
	must(t, err, f.Close(), os.Chtimes(dir, time.Time{}, time.Unix(7, 7)))
	if os.Getuid() == 0 {
		must(t, unix.Mknod(filepath.Join(dir, "c"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))),
			os.Lchown(filepath.Join(dir, "old"), 3_000_000, 4_000_000), os.Chmod(filepath.Join(dir, "d/z"), 0o755|os.ModeSetuid),
			unix.Setxattr(filepath.Join(dir, "d"), "trusted.x", []byte("a\x00b\n"), 0), os.Chtimes(dir, time.Time{}, time.Unix(7, 7)))
	}
	img, _ := readOne(t, "dir:"+dir)
	for _, flags := range [][]string{{"--sort=name"}, {"--sparse", "--sort=inode"}, {"--sparse", "--sparse-version=0.1"}, {"--sparse", "--sparse-version=0.0"}} {
		file := filepath.Join(t.TempDir(), "t.tar")
		args := append([]string{"--format=pax", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-C", dir, "-cf", file}, flags...)
		if out, err := exec.Command("tar", append(args, ".")...).CombinedOutput(); err != nil {
			t.Fatalf("tar: %v: %s", err, out)
		}
		if got, _ := readOne(t, "tar:"+file); got.Layers[0].DiffID != img.Layers[0].DiffID {
			t.Errorf("tar %q: diff ID %s, want %s", flags, got.Layers[0].DiffID, img.Layers[0].DiffID)
		}
	}
}

func TestDirectoryRefuses(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o000))
	ctx := context.Background()
	for _, src := range []string{"dir:" + filepath.Join(dir, "none"), "dir:" + filepath.Join(dir, "f")} {
		if _, err := Open(ctx, []string{src}, Options{}); err == nil {
			t.Errorf("%s: no error", src)
		}
	}
	img, err := Open(ctx, []string{"dir:" + dir}, Options{})
	if os.Getuid() != 0 {
		if err == nil || !strings.Contains(err.Error(), "permission denied") {
			t.Errorf("unreadable file: %v", err)
		}
		return
	}
	must(t, err, os.WriteFile(filepath.Join(dir, "f"), []byte("y and more"), 0o600))
	spool, err := os.CreateTemp(t.TempDir(), "spool")
	must(t, err)
	_, err = img.Layers[0].Read(ctx, spool)
	if err == nil {
		t.Error("changed since it was opened: no error")
	}
	must(t, spool.Close())
}
