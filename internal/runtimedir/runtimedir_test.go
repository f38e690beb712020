package runtimedir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

func TestCheck(t *testing.T) {
	for name, c := range map[string]struct {
		make func(dir string) error
		want bool
	}{
		"Nothing": {func(string) error { return nil }, false},
		"Ours":    {func(dir string) error { return os.Mkdir(dir, 0o700) }, true},
		"OurGroupMayRead": {func(dir string) error {
			return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o750))
		}, true},
		"OurGroupMayWrite": {func(dir string) error {
			return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o770))
		}, false},
		"AllMayWrite": {func(dir string) error {
			return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o702))
		}, false},
		"ALink": {func(dir string) error { return os.Symlink(filepath.Dir(dir), dir) }, false},
		"AFile": {func(dir string) error { return os.WriteFile(dir, nil, 0o600) }, false},
		"SomebodyElses": {func(dir string) error {
			return errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, 12345, 12345))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "SomebodyElses" && os.Geteuid() != 0 {
				t.Skip("needs root to give a folder away")
			}
			dir := filepath.Join(t.TempDir(), "run")
			if err := c.make(dir); err != nil {
				t.Fatal(err)
			}
			if err := Check(dir); (err == nil) != c.want {
				t.Errorf("%v, want it to be trusted: %v", err, c.want)
			}
		})
	}
}

func TestMake(t *testing.T) {
	base := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", base)
	want := filepath.Join(base, "rivulet")
	for range 2 {
		if dir, err := Make(); err != nil || dir != want {
			t.Errorf("%q, %v; want %q", dir, err, want)
		}
	}
	if info, err := os.Stat(want); err != nil || info.Mode() != fs.ModeDir|0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := os.Chmod(want, 0o777); err != nil {
		t.Fatal(err)
	}
	if dir, err := Make(); err == nil || dir != "" {
		t.Errorf("%q, which all may write to", dir)
	}
}

func TestPath(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", "")
	t.Setenv("TMPDIR", "/elsewhere")
	want := fmt.Sprintf("/elsewhere/rivulet-%d", os.Geteuid())
	if os.Geteuid() == 0 && runtime.GOOS == "linux" {
		want = Host
	}
	if got := Path(); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
