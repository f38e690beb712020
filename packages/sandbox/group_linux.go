//go:build amd64 || arm64

package sandbox

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A group is a control group of the kernel's that holds all processes of a run, whoever
// started them, and bounds what memory they have together, the sandbox's disk counted. Its
// folder is locked while its run lasts, so that one whose owner was killed can be told.
type group struct {
	dir *os.File
	v1  bool
}

const (
	groupPrefix = "rivulet-sandbox-"
	groupTries  = 5
	groupEnds   = 5 * time.Second // within which killed processes are gone
)

// errNoGroup says that this process may make no group that bounds memory.
var errNoGroup = errors.New("no control group for memory can be made")

// newGroup makes a group that holds at most so many bytes, and removes those whose owners
// are gone, with what is left in them.
func newGroup(bytes int64) (*group, error) {
	making.Lock()
	defer making.Unlock()
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoGroup, err)
	}
	parent, v1, err := groupParent(string(own), groupRoot)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoGroup, err)
	}
	sweepGroups(parent, v1)
	for range groupTries {
		dir := filepath.Join(parent, groupPrefix+rand.Text())
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, fmt.Errorf("%w: %w", errNoGroup, err)
		}
		g := lockGroup(dir, v1)
		if g == nil {
			continue // somebody took it for one that is left over
		}
		if err := g.bound(bytes); err != nil {
			g.end()
			return nil, fmt.Errorf("%w: %w", errNoGroup, err)
		}
		return g, nil
	}
	return nil, errNoGroup
}

const (
	groupRoot = "/sys/fs/cgroup"
	groupLeaf = "rivulet-publisher" // where this process moves to, to have groups beside itself
)

// making is held by whoever makes a group, as that may move this process.
var making sync.Mutex

// groupParent returns the folder for groups of this process, below root, by its
// /proc/self/cgroup: beneath its own group, so that what bounds that bounds them too. In version 2,
// only a group without processes has some beneath it that bound memory, so this process, if it is
// alone there, moves into a leaf. If it is not alone, groups are made beside its own.
func groupParent(own, root string) (dir string, v1 bool, err error) {
	dir, v1 = ownGroup(own, root)
	switch {
	case dir == "":
		return "", false, errors.New("this process is in none")
	case v1:
		if _, err := os.Stat(dir); err != nil { // its name is as it is seen from elsewhere, in a container
			dir = path.Join(root, "memory")
		}
		return dir, true, nil
	case path.Base(dir) == groupLeaf:
		return path.Dir(dir), false, nil
	}
	if err = enableMemory(dir); err == nil || makeRoom(dir) {
		return dir, false, nil
	}
	if dir == root {
		return "", false, err
	}
	return path.Dir(dir), false, nil
}

// ownGroup returns the folder of a process's group that bounds memory, by its /proc/self/cgroup.
func ownGroup(own, root string) (dir string, v1 bool) {
	unified := ""
	for line := range strings.Lines(own) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case len(f) != 3 || strings.Contains(f[2], ".."):
		case f[1] == "":
			unified = f[2]
		case f[1] == "memory":
			return path.Join(root, "memory", f[2]), true
		}
	}
	if unified == "" {
		return "", false
	}
	return path.Join(root, unified), false
}

// makeRoom has the group dir of this process bound the memory of groups beneath it, and reports
// whether it does.
func makeRoom(dir string) bool {
	self := strconv.Itoa(os.Getpid())
	procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil || strings.TrimSpace(string(procs)) != self {
		return false
	}
	leaf := filepath.Join(dir, groupLeaf)
	if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return false
	}
	if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte(self), 0); err != nil {
		_ = os.Remove(leaf)
		return false
	}
	if err := enableMemory(dir); err != nil { // nobody has given it to this group
		_ = os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(self), 0)
		_ = os.Remove(leaf)
		return false
	}
	return true
}

func enableMemory(dir string) error {
	return os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+memory"), 0)
}

// lockGroup returns the group in a folder, or nil if it is another's.
func lockGroup(dir string, v1 bool) *group {
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil
	}
	if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err != nil { // removed before it was locked
		_ = f.Close()
		return nil
	}
	return &group{dir: f, v1: v1}
}

// sweepGroups ends groups whose owners were killed.
func sweepGroups(parent string, v1 bool) {
	all, _ := os.ReadDir(parent) // by no pattern: systemd has backslashes in names
	for _, e := range all {
		if !strings.HasPrefix(e.Name(), groupPrefix) {
			continue
		}
		if g := lockGroup(filepath.Join(parent, e.Name()), v1); g != nil {
			g.end()
		}
	}
}

func (g *group) path(name string) string { return filepath.Join(g.dir.Name(), name) }

func (g *group) write(name string, value int64) error {
	return os.WriteFile(g.path(name), strconv.AppendInt(nil, value, 10), 0)
}

// bound sets how much memory the group may have. Nothing of it is swapped out.
func (g *group) bound(bytes int64) error {
	limit, more := "memory.max", []string{"memory.swap.max", "memory.oom.group"}
	values := []int64{0, 1}
	if g.v1 {
		limit, more, values = "memory.limit_in_bytes", []string{"memory.memsw.limit_in_bytes"}, []int64{bytes}
	}
	if err := g.write(limit, bytes); err != nil {
		return err
	}
	for i, name := range more {
		if err := g.write(name, values[i]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// anonymous returns the memory of the group's processes that is in no file, in bytes.
func (g *group) anonymous() int64 {
	name := "anon"
	if g.v1 {
		name = "total_rss"
	}
	return g.number("memory.stat", name)
}

// killed reports whether the kernel ended one of its processes for want of memory.
func (g *group) killed() bool {
	if g.v1 {
		return g.number("memory.oom_control", "oom_kill") > 0
	}
	return g.number("memory.events", "oom_kill") > 0
}

// number returns what a file of the group says of a name, or 0.
func (g *group) number(file, name string) int64 {
	data, err := os.ReadFile(g.path(file))
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(data) {
		if rest, ok := bytes.CutPrefix(line, []byte(name+" ")); ok {
			n, _ := strconv.ParseInt(string(bytes.TrimSpace(rest)), 10, 64)
			return n
		}
	}
	return 0
}

// end kills what is in the group and removes it.
func (g *group) end() {
	defer func() { _ = g.dir.Close() }()
	for deadline := time.Now().Add(groupEnds); ; time.Sleep(time.Millisecond) {
		procs, err := os.ReadFile(g.path("cgroup.procs"))
		if err != nil {
			return
		}
		for _, field := range bytes.Fields(procs) {
			if pid, err := strconv.Atoi(string(field)); err == nil && pid > 1 {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		if err := os.Remove(g.dir.Name()); err == nil || errors.Is(err, fs.ErrNotExist) || time.Now().After(deadline) {
			return
		}
	}
}

// join is a program for sh that enters a group and runs the rest.
const join = `{ echo $$ >"$1/cgroup.procs"; } 2>/dev/null || { echo "bwrap: cannot enter the control group $1" >&2; exit 1; }
shift
exec "$@"`

// enter returns a command line that runs line in the group.
func (g *group) enter(line []string) []string {
	if g == nil {
		return line
	}
	return append([]string{"sh", "-c", join, "sh", g.dir.Name()}, line...)
}
