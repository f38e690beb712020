//go:build unix

package scratch

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestSwept kills a process that has a folder: the next one to make any removes it, and
// leaves alone those whose processes live, and files of other kinds.
func TestSwept(t *testing.T) {
	if dir := os.Getenv("SCRATCH_TEST_DIR"); dir != "" { // the process
		f, err := Make(dir, "left")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(f.Path, "x"), nil, 0o400); err != nil {
			t.Fatal(err)
		}
		_, _ = os.Stdout.WriteString(f.Path + "\n")
		select {}
	}
	dir := t.TempDir()
	mine, err := Make(dir, "mine")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"rivulet-note.lock.txt", "other.lock"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestSwept$")
	cmd.Env = append(os.Environ(), "SCRATCH_TEST_DIR="+dir)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	left := line[:len(line)-1]
	sweep(dir)
	if _, err := os.Stat(filepath.Join(left, "x")); err != nil {
		t.Errorf("while its process lives: %v", err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	next, err := Make(dir, "next")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{left, left + ".lock"} {
		if _, err := os.Stat(p); err == nil {
			t.Errorf("%s is left", p)
		}
	}
	if err := mine.Remove(); err != nil {
		t.Errorf("remove: %v", err)
	}
	if err := next.Remove(); err != nil {
		t.Errorf("remove: %v", err)
	}
	all, err := os.ReadDir(dir)
	if err != nil || len(all) != 2 {
		t.Errorf("left are %v: %v", all, err)
	}
}
