//go:build amd64 || arm64

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestGroupParent looks where groups are made, in folders that stand for the kernel's.
func TestGroupParent(t *testing.T) {
	for own, want := range map[string]string{
		"5:memory:/user/1\n4:cpu:/\n0::/x\n":       "/memory/user/1 v1",
		"5:memory:/elsewhere\n":                    "/memory v1",
		"0::/user.slice/user-0.slice/1.scope\n":    "/user.slice/user-0.slice/1.scope",
		"0::/closed/1.scope\n":                     "/closed",
		"0::/unit/" + groupLeaf + "\n":             "/unit",
		"0::/\n":                                   "",
		"0::/../../other\n":                        "none",
		"1:name=systemd:/\n2:cpu,cpuacct:/\nx\n\n": "none",
		"": "none",
	} {
		root := t.TempDir()
		for _, dir := range []string{"memory/user/1", "user.slice/user-0.slice/1.scope", "unit"} {
			if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		got, v1, err := groupParent(own, root)
		if got = strings.TrimPrefix(got, root); v1 {
			got += " v1"
		}
		if err != nil {
			got = "none"
		}
		if got != want {
			t.Errorf("%q: %q, want %q", own, got, want)
		}
	}
}

// TestGroupBeneath has a process of its own, in a group of its own, run things: alone there, and beside
// another. It needs version 2, where the rules are.
func TestGroupBeneath(t *testing.T) {
	if dir := os.Getenv("SANDBOX_TEST_GROUP"); dir != "" { // the process
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			g := makeGroup(t, 32<<20)
			fmt.Println("made", filepath.Dir(g.dir.Name()))
			g.end()
		}
		return
	}
	makeGroup(t, 32<<20).end()
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	parent, v1, err := groupParent(string(own), groupRoot)
	if err != nil || v1 {
		t.Skip("needs control groups of version 2: ", err)
	}
	for _, alone := range []bool{true, false} {
		unit, err := os.MkdirTemp(parent, "rivulet-test-")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _, _ = os.Remove(filepath.Join(unit, groupLeaf)), os.Remove(unit) }()
		want := unit
		if !alone {
			want = parent
			other := exec.Command("sleep", "1000")
			if err := other.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _, _ = other.Process.Kill(), other.Wait() }()
			if err := os.WriteFile(filepath.Join(unit, "cgroup.procs"), []byte(fmt.Sprint(other.Process.Pid)), 0); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.Command(os.Args[0], "-test.run=^TestGroupBeneath$")
		cmd.Env = append(os.Environ(), "SANDBOX_TEST_GROUP="+unit)
		out, err := cmd.CombinedOutput()
		if err != nil || strings.Count(string(out), "made "+want+"\n") != 2 {
			t.Errorf("alone: %t: %v: %s, want %s", alone, err, out, want)
		}
	}
}

// makeGroup makes a group, or skips the test.
func makeGroup(t *testing.T, bytes int64) *group {
	t.Helper()
	g, err := newGroup(bytes)
	if errors.Is(err, errNoGroup) {
		t.Skip("needs a control group for memory: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// TestGroupSwept leaves a group behind, with a process in it, as who is killed does: the
// next group's maker ends both, and leaves alone what has an owner.
func TestGroupSwept(t *testing.T) {
	mine := makeGroup(t, 64<<20)
	defer mine.end()
	g := makeGroup(t, 64<<20)
	left := g.dir.Name()
	line := g.enter([]string{"sleep", "1000"})
	cmd := exec.Command(line[0], line[1:]...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	eventually(t, "it is not in the group", func() bool {
		procs, err := os.ReadFile(filepath.Join(left, "cgroup.procs"))
		return err == nil && len(procs) > 0
	})
	if err := g.dir.Close(); err != nil { // as the kernel does for who is killed
		t.Fatal(err)
	}
	makeGroup(t, 64<<20).end()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("it ended by itself")
		}
	case <-time.After(10 * time.Second):
		t.Error("what is in the group runs on")
		_ = cmd.Process.Kill()
		if err := <-ended; err == nil {
			t.Error("it ended by itself")
		}
	}
	if _, err := os.Stat(left); err == nil {
		t.Errorf("%s is left", left)
	}
	if _, err := os.Stat(mine.dir.Name()); err != nil {
		t.Errorf("a group that has an owner is gone: %v", err)
	}
}

// TestGroupSweptAnywhere leaves a group below one whose name is as systemd writes it.
func TestGroupSweptAnywhere(t *testing.T) {
	g := makeGroup(t, 64<<20)
	defer g.end()
	parent := filepath.Join(filepath.Dir(g.dir.Name()), fmt.Sprintf(`rivulet\x2dtest-%d`, os.Getpid()))
	left := filepath.Join(parent, groupPrefix+"left")
	for _, dir := range []string{parent, left} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.Remove(dir) }()
	}
	sweepGroups(parent, g.v1)
	if _, err := os.Stat(left); err == nil {
		t.Errorf("%s is left", left)
	}
}

// TestGroupGone enters a group that is not there any more: that is no failure of the program's.
func TestGroupGone(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	g := &group{dir: dir}
	if err := errors.Join(os.Remove(dir.Name()), dir.Close()); err != nil {
		t.Fatal(err)
	}
	line := g.enter([]string{"echo", "it runs"})
	out, err := exec.Command(line[0], line[1:]...).CombinedOutput()
	if err == nil || !strings.HasPrefix(string(out), "bwrap: cannot enter") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestGroupKills has a program take all the memory it can get, which nobody watches: the kernel ends
// it at the group's bound, and the group tells.
func TestGroupKills(t *testing.T) {
	g := makeGroup(t, 32<<20)
	defer g.end()
	if g.killed() {
		t.Error("it is said to be killed before it runs")
	}
	line := g.enter([]string{"tail", "/dev/zero"})
	out, err := exec.Command(line[0], line[1:]...).CombinedOutput()
	if err == nil || !g.killed() {
		t.Errorf("killed: %t, %v: %s", g.killed(), err, out)
	}
}

// TestGroupHoldsRun has processes of a sandbox take, each, what one may have.
func TestGroupHoldsRun(t *testing.T) {
	makeGroup(t, 64<<20).end()
	dir := root(t)
	_, err := shell(dir, `for i in 1 2 3 4; do b tail /dev/zero & done; wait; exit 0`, Limits{Memory: 64 << 20, Disk: 4 << 20, Time: time.Minute})
	if err == nil || err.Error() != "took more than 64 MiB of memory" {
		t.Errorf("%v, want took more than 64 MiB of memory", err)
	}
}

// TestMemoryOfMany has many processes take memory at once, faster than anybody looks: the
// kernel holds all of them together within the bound, and the run ends with one line.
func TestMemoryOfMany(t *testing.T) {
	makeGroup(t, 64<<20).end()
	dir := root(t)
	limits := Limits{Memory: 64 << 20, Disk: 4 << 20, Processes: 128, Time: time.Minute}
	for range 3 {
		_, err := shell(dir, `for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do (x=$(b head -c 8000000 /dev/zero | b tr '\0' a); b setsid b sleep 100) & done; wait`, limits)
		if err == nil || !strings.Contains(err.Error(), "took more than 64 MiB of memory") {
			t.Fatalf("%v, want took more than 64 MiB of memory", err)
		}
	}
}
