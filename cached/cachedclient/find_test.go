package cachedclient

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
)

// TestFindTrusts looks for a daemon in a temporary folder that all users share
// only where nobody else can have put one.
func TestFindTrusts(t *testing.T) {
	tmp := t.TempDir()
	dir := filepath.Join(tmp, fmt.Sprintf("rivulet-%d", os.Geteuid()))
	t.Setenv("XDG_RUNTIME_DIR", "")
	t.Setenv("TMPDIR", tmp)
	for name, c := range map[string]struct {
		make func() error
		want bool
	}{
		"Nothing": {func() error { return nil }, false},
		"Ours":    {func() error { return os.Mkdir(dir, 0o700) }, true},
		"OurGroupMayRead": {func() error {
			return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o750))
		}, true},
		"AllMayWrite": {func() error {
			return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o777))
		}, false},
		"ALink": {func() error { return os.Symlink(t.TempDir(), dir) }, false},
		"SomebodyElses": {func() error {
			return errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, 12345, 12345))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "SomebodyElses" && os.Geteuid() != 0 {
				t.Skip("needs root to give a folder away")
			}
			_ = os.RemoveAll(dir)
			if err := c.make(); err != nil {
				t.Fatal(err)
			}
			if got := ownedAlone(dir); got != c.want {
				t.Errorf("trusted: %v", got)
			}
			looks := slices.Contains(usual(), filepath.Join(dir, SocketName))
			if root := os.Geteuid() == 0 && runtime.GOOS == "linux"; looks != (c.want && !root) {
				t.Errorf("looks there: %v", looks)
			}
		})
	}
}
