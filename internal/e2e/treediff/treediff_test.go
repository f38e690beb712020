//go:build linux

package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// makeTree fills a new directory with one entry of each kind that needs no root.
func makeTree(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(root, "dir/sub"), 0o755))
	must(os.WriteFile(filepath.Join(root, "dir/file"), []byte(strings.Repeat("content ", 100_000)), 0o644))
	must(os.Link(filepath.Join(root, "dir/file"), filepath.Join(root, "link")))
	must(os.WriteFile(filepath.Join(root, "other"), []byte("other"), 0o600))
	must(os.Symlink("dir/file", filepath.Join(root, "symlink")))
	must(unix.Mkfifo(filepath.Join(root, "fifo"), 0o644))
	for _, name := range []string{"dir/sub", "dir/file", "other", "symlink", "fifo", "dir", "."} {
		setTime(t, filepath.Join(root, name), 123456789)
	}
	return root
}

func setTime(t *testing.T, name string, nsec int64) {
	t.Helper()
	ts := unix.NsecToTimespec(time.Unix(-5, nsec).UnixNano())
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, name, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		t.Fatal(err)
	}
}

func diff(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out strings.Builder
	err := run(args, &out)
	if err != nil && !errors.Is(err, errDifferent) {
		t.Fatal(err)
	}
	return out.String(), err
}

func TestEqualTrees(t *testing.T) {
	if out, err := diff(t, makeTree(t), makeTree(t)); err != nil {
		t.Fatalf("equal trees differ:\n%s", out)
	}
}

func TestDifferences(t *testing.T) {
	tests := []struct {
		name   string
		change func(root string) error
		want   string
	}{
		{"missing", func(r string) error { return os.Remove(filepath.Join(r, "other")) }, "other: only in"},
		{"extra", func(r string) error { return os.WriteFile(filepath.Join(r, "new"), nil, 0o644) }, "new: only in"},
		{"mode", func(r string) error { return os.Chmod(filepath.Join(r, "other"), 0o601) }, "other: mode 0600, and 0601"},
		{"set-uid", func(r string) error { return unix.Chmod(filepath.Join(r, "other"), 0o4600) }, "other: mode 0600, and 04600"},
		{"nanoseconds", func(r string) error { setTime(t, filepath.Join(r, "fifo"), 123456790); return nil }, "fifo: mtime 1969-12-31T23:59:55.123456789, and"},
		{"time of a symlink", func(r string) error { setTime(t, filepath.Join(r, "symlink"), 1); return nil }, "symlink: mtime"},
		{"last byte", func(r string) error {
			f, err := os.OpenFile(filepath.Join(r, "dir/file"), os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte("!"), 799_999)
			return errors.Join(err, f.Close())
		}, "dir/file: content differs from byte 799999 on"},
		{"size", func(r string) error { return os.Truncate(filepath.Join(r, "other"), 4) }, "other: size 5, and 4"},
		{"target", func(r string) error {
			return errors.Join(os.Remove(filepath.Join(r, "symlink")), os.Symlink("dir/fil", filepath.Join(r, "symlink")))
		}, `symlink: target "dir/file", and "dir/fil"`},
		{"type", func(r string) error {
			return errors.Join(os.Remove(filepath.Join(r, "fifo")), os.Mkdir(filepath.Join(r, "fifo"), 0o755))
		}, "fifo: type fifo, and directory"},
		{"links", func(r string) error { return os.Link(filepath.Join(r, "other"), filepath.Join(r, "more")) }, "other: links 1, and 2"},
		{"copy in place of a link", func(r string) error {
			b, err := os.ReadFile(filepath.Join(r, "link"))
			return errors.Join(err, os.Remove(filepath.Join(r, "link")), os.WriteFile(filepath.Join(r, "link"), b, 0o644))
		}, "link: is a link of dir/file, and link"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a, b := makeTree(t), makeTree(t)
			if err := test.change(b); err != nil {
				t.Fatal(err)
			}
			out, err := diff(t, a, b)
			if err == nil || !strings.Contains(out, test.want) {
				t.Errorf("want %q in:\n%s", test.want, out)
			}
		})
	}
}

func TestXattrs(t *testing.T) {
	a, b := makeTree(t), makeTree(t)
	set := func(root, key, value string) {
		t.Helper()
		err := unix.Lsetxattr(filepath.Join(root, "other"), key, []byte(value), 0)
		if errors.Is(err, unix.ENOTSUP) {
			t.Skip("needs a file system with user xattrs under TMPDIR")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	set(a, "user.both", "1")
	set(b, "user.both", "2")
	set(a, "user.a", "")
	set(b, "user.b", "x")
	out, _ := diff(t, a, b)
	for _, want := range []string{`user.both "1", and "2"`, `user.a "", and none`, `user.b none, and "x"`} {
		if !strings.Contains(out, want) {
			t.Errorf("want %q in:\n%s", want, out)
		}
	}
}

func TestExcept(t *testing.T) {
	a, b := makeTree(t), makeTree(t)
	if err := os.MkdirAll(filepath.Join(b, "lost+found/deep"), 0o700); err != nil {
		t.Fatal(err)
	}
	setTime(t, b, 123456789)
	if out, err := diff(t, "-except", "lost+found", a, b); err != nil {
		t.Fatalf("what was left out differs:\n%s", out)
	}
	if _, err := diff(t, a, b); err == nil {
		t.Fatal("lost+found goes unnoticed without -except")
	}
}

func TestWrongUse(t *testing.T) {
	for _, args := range [][]string{{}, {"one"}, {t.TempDir(), "/no-such-directory"}} {
		if err := run(args, new(strings.Builder)); err == nil || errors.Is(err, errDifferent) {
			t.Errorf("run(%q): error %v, want one that is no difference", args, err)
		}
	}
}
