package rootfs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/rivuletfs/rivulet/flatten/source"
)

func TestWrite(t *testing.T) {
	from, over, to := t.TempDir(), t.TempDir(), t.TempDir()
	in := func(name string) string { return filepath.Join(from, name) }
	err := errors.Join(
		os.MkdirAll(in("usr/bin"), 0o755), os.WriteFile(in("usr/bin/run"), []byte("one"), 0o755), os.Chmod(in("usr/bin/run"), 0o4755),
		os.Link(in("usr/bin/run"), in("usr/bin/also")), os.Symlink("usr/bin", in("bin")), os.Symlink("/nowhere", in("out")),
		os.Mkdir(in("etc"), 0o500), os.Symlink("/run/systemd/resolve", in("tmp-link")),
		os.WriteFile(filepath.Join(over, "new"), []byte("two"), 0o600), os.WriteFile(filepath.Join(over, ".wh.out"), nil, 0o600),
	)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	img, err := source.Open(ctx, []string{"dir:" + from, "dir:" + over}, source.Options{TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = img.Close() }()
	if err := Write(ctx, img.Layers, to, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	at := func(name string) os.FileInfo {
		info, err := os.Lstat(filepath.Join(to, name))
		if err != nil {
			t.Error(err)
			return nil
		}
		return info
	}
	one, also := at("usr/bin/run"), at("usr/bin/also")
	if one == nil || !os.SameFile(one, also) || one.Mode() != 0o755 {
		t.Errorf("linked file: %v", one)
	}
	if data, err := os.ReadFile(filepath.Join(to, "bin/run")); err != nil || string(data) != "one" {
		t.Errorf("through a link: %q, %v", data, err)
	}
	if _, err := os.Lstat(filepath.Join(to, "out")); err == nil {
		t.Error("a file that a layer hides is there")
	}
	for _, dir := range []string{"dev", "proc", "run", "tmp"} {
		if info := at(dir); info != nil && !info.IsDir() {
			t.Errorf("%s is no folder", dir)
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	from := t.TempDir()
	if err := os.Symlink("/etc", filepath.Join(from, "proc")); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	img, err := source.Open(ctx, []string{"dir:" + from}, source.Options{TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = img.Close() }()
	if err := Write(ctx, img.Layers, t.TempDir(), t.TempDir()); err == nil {
		t.Error("a link where a sandbox mounts something: no error")
	}
}
