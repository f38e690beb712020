package python

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestResolverOfHere: what is named like pip in the folder that somebody publishes from is
// not run.
func TestResolverOfHere(t *testing.T) {
	if exec.Command("python3", "-m", "pip", "--version").Run() != nil {
		t.Skip("needs python3 with pip")
	}
	dir := t.TempDir()
	ran := filepath.Join(dir, "ran")
	if err := os.WriteFile(filepath.Join(dir, "pip.py"), []byte("open('"+ran+"', 'w')\n__path__ = ['"+dir+"']\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	r, err := NewResolver(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(ran); err == nil || r.pip == dir {
		t.Errorf("pip is %s, and the folder's own was run: %v", r.pip, err == nil)
	}
}
