package cachedclient

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/rivuletfs/rivulet/internal/runtimedir"
)

// TestFindTrusts looks for this user's daemon only where nobody else can have put
// one: in a folder that users share, and in one that this user named.
func TestFindTrusts(t *testing.T) {
	for name, base := range map[string]string{"XDG_RUNTIME_DIR": "rivulet", "TMPDIR": fmt.Sprintf("rivulet-%d", os.Geteuid())} {
		t.Run(name, func(t *testing.T) {
			tmp := t.TempDir()
			t.Setenv("XDG_RUNTIME_DIR", "")
			t.Setenv(name, tmp)
			dir := filepath.Join(tmp, base)
			if runtimedir.Path() != dir { // root's on Linux, which is no folder that users share
				if looks := usual(); slices.Contains(looks, filepath.Join(dir, SocketName)) {
					t.Errorf("looks in %v", looks)
				}
				return
			}
			for _, mode := range []os.FileMode{0o777, 0o750, 0o700} {
				_ = os.RemoveAll(dir)
				if err := os.Mkdir(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(dir, mode); err != nil {
					t.Fatal(err)
				}
				looks := slices.Contains(usual(), filepath.Join(dir, SocketName))
				if want := mode&0o022 == 0; looks != want {
					t.Errorf("mode %o: looks there: %v", mode, looks)
				}
			}
		})
	}
}
