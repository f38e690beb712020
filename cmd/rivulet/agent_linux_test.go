package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/frontend/nbd/nbdclient"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/host/control"
)

// bound is how long these tests wait for what must happen soon.
const bound = 60 * time.Second

// A station is a machine's user with an image, and an agent that comes and goes.
type station struct {
	t     *testing.T
	home  string
	env   []string
	agent *exec.Cmd
	sums  map[string][sha256.Size]byte // of the image's files
}

func newStation(t *testing.T) *station {
	t.Helper()
	if mounts, err := condition("mounts"); err != nil || !mounts {
		t.Skip("needs root, /dev/fuse and loop devices")
	}
	s := &station{t: t, home: t.TempDir(), sums: make(map[string][sha256.Size]byte)}
	s.env = append(os.Environ(), "HOME="+s.home, "RIVULET_STORE=dir:"+s.path("store"), "XDG_CONFIG_HOME="+s.path("config"),
		"XDG_RUNTIME_DIR="+s.path("run"), "XDG_STATE_HOME="+s.path("state"), "RIVULET_KEYS=", "RIVULET_IDENTITY=", "RIVULET_AGENT=")
	for _, dir := range []string{"tree", "mnt"} {
		if err := os.Mkdir(s.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	random := rand.NewChaCha8([32]byte{1})
	for i := range 40 {
		b := make([]byte, 1000+i*i*1500)
		_, _ = random.Read(b)
		name := fmt.Sprintf("f%02d", i)
		s.sums[name] = sha256.Sum256(b)
		if err := os.WriteFile(s.path("tree/"+name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.run("publish", "dir:"+s.path("tree"), "--name", "tree")
	t.Cleanup(s.clean)
	return s
}

func (s *station) path(name string) string { return filepath.Join(s.home, name) }

func (s *station) run(args ...string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	cmd := exec.CommandContext(ctx, "rivulet", args...)
	cmd.Env, cmd.Dir = s.env, s.home
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("rivulet %q: %v\n%s\nlog: %s", args, err, out, s.log())
	}
	return string(out)
}

func (s *station) log() string {
	b, _ := os.ReadFile(s.path("log"))
	return string(b)
}

func (s *station) client() *control.Client {
	s.t.Helper()
	c, err := control.Dial(s.t.Context(), s.path("run/rivulet/agent.sock"))
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// start starts an agent, and returns when that has so many attachments ready.
func (s *station) start(attachments int) {
	s.t.Helper()
	log, err := os.OpenFile(s.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	s.agent = exec.Command("rivulet", "agent", "--memory", "2M", "--hold", "30s")
	s.agent.Env, s.agent.Dir, s.agent.Stdout, s.agent.Stderr = s.env, s.home, log, log
	if err := s.agent.Start(); err != nil {
		s.t.Fatal(err)
	}
	for end := time.Now().Add(bound); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if s.ready() == attachments {
			return
		}
	}
	s.t.Fatalf("the agent has %d attachments ready, want %d\n%s", s.ready(), attachments, s.log())
}

// ready counts the attachments that are; -1 if no agent answers.
func (s *station) ready() int {
	c, err := control.Dial(context.Background(), s.path("run/rivulet/agent.sock"))
	if err != nil {
		return -1
	}
	list, err := c.List(context.Background())
	if err != nil {
		return -1
	}
	n := 0
	for _, i := range list {
		if i.State == host.Ready {
			n++
		}
	}
	return n
}

func (s *station) kill() {
	s.t.Helper()
	if err := s.agent.Process.Kill(); err != nil {
		s.t.Fatal(err)
	}
	_ = s.agent.Wait()
}

// processes returns the ids of this station's processes.
func (s *station) processes() []int {
	var list []int
	all, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range all {
		b, err := os.ReadFile(path)
		var pid int
		if _, scanErr := fmt.Sscanf(path, "/proc/%d/", &pid); err == nil && scanErr == nil && bytes.Contains(b, []byte("XDG_STATE_HOME="+s.path("state")+"\x00")) {
			list = append(list, pid)
		}
	}
	return list
}

// clean takes everything down, whoever serves it.
func (s *station) clean() {
	if c, err := control.Dial(context.Background(), s.path("run/rivulet/agent.sock")); err == nil {
		list, _ := c.List(context.Background())
		for _, i := range list {
			if err := c.Detach(context.Background(), i.ID, true, time.Second); err != nil {
				s.t.Error(err)
			}
		}
	}
	for _, pid := range s.processes() {
		_ = syscall.Kill(pid, syscall.SIGTERM)
	}
	for end := time.Now().Add(bound); len(s.processes()) > 0 && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		continue
	}
	mounts, _ := os.ReadFile("/proc/mounts")
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], s.home) {
			s.t.Errorf("%s is left mounted", f[1])
			_ = unix.Unmount(f[1], unix.MNT_DETACH)
		}
	}
}

// readFiles reads and compares the mounted files, past the page cache, until ctx
// ends, and returns how many it read.
func (s *station) readFiles(ctx context.Context) (n int, err error) {
	for ; n == 0 || ctx.Err() == nil; n++ {
		name := fmt.Sprintf("f%02d", rand.IntN(len(s.sums)))
		b, err := readCold(s.path("mnt/" + name))
		if err != nil {
			return n, err
		}
		if sha256.Sum256(b) != s.sums[name] {
			return n, fmt.Errorf("%s has wrong bytes", name)
		}
	}
	return n, nil
}

func readCold(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	return os.ReadFile(path)
}

// TestAgentKilled kills an agent 20 times under readers of a mounted file system,
// at which nobody sees more than a pause.
func TestAgentKilled(t *testing.T) {
	s := newStation(t)
	s.start(0)
	s.run("mount", "tree", "mnt")
	s.run("agent", "attach", "tree", "--nbd", "unix:nbd.sock")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var g errgroup.Group
	reads := make([]int, 4)
	for i := range reads {
		g.Go(func() (err error) {
			reads[i], err = s.readFiles(ctx)
			return err
		})
	}
	times := 20
	if testing.Short() {
		times = 4
	}
	for range times {
		time.Sleep(time.Duration(20+rand.IntN(60)) * time.Millisecond)
		s.kill()
		time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
		s.start(2)
		// Whoever reconnects finds the export at the same place.
		c, err := nbdclient.Dial(t.Context(), "nbd+unix:///tree?socket="+s.path("nbd.sock"))
		if err != nil {
			t.Fatalf("reconnect: %v", err)
		}
		_ = c.Close()
	}
	stop()
	if err := g.Wait(); err != nil {
		t.Errorf("a reader of the mount: %v\n%s", err, s.log())
	}
	t.Logf("files read: %v", reads)
	for i, n := range reads {
		if n == 0 {
			t.Errorf("reader %d read nothing", i)
		}
	}
}

// TestAgentUpgraded upgrades an agent 10 times, under readers of a mount and of
// NBD exports whose clients never connect again.
func TestAgentUpgraded(t *testing.T) {
	s := newStation(t)
	s.start(0)
	s.run("mount", "tree", "mnt")
	s.run("agent", "attach", "tree", "--nbd", "unix:nbd.sock")
	s.run("export", "tree", "disk.img")
	image, err := os.Open(s.path("disk.img"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = image.Close() }()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var g errgroup.Group
	for range 2 {
		g.Go(func() error { _, err := s.readFiles(ctx); return err })
		c, err := nbdclient.Dial(t.Context(), "nbd+unix:///tree?socket="+s.path("nbd.sock"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		for range 4 {
			g.Go(func() error { return compareReads(ctx, c, image) })
		}
	}
	pids := map[int]bool{}
	times := 10
	if testing.Short() {
		times = 3
	}
	for i := range times {
		time.Sleep(50 * time.Millisecond)
		if i%2 == 0 {
			u, err := s.client().Upgrade(t.Context())
			if err != nil {
				t.Fatalf("upgrade %d: %v\n%s", i, err, s.log())
			}
			pids[u.PID] = true
		} else {
			s.signalAgent(pids)
		}
		s.awaitReady(2)
	}
	stop()
	if err := g.Wait(); err != nil {
		t.Errorf("a reader: %v\n%s", err, s.log())
	}
	_ = s.agent.Wait()
}

// TestAgentManyAttachments has a thousand clients attach at once, each of which then
// reads its disk.
func TestAgentManyAttachments(t *testing.T) {
	s := newStation(t)
	s.start(0)
	many := 1000
	if testing.Short() {
		many = 300
	}
	var g errgroup.Group
	disks := make([]*nbdclient.Client, many)
	for i := range many {
		g.Go(func() error {
			c, err := control.Dial(t.Context(), s.path("run/rivulet/agent.sock"))
			if err != nil {
				return err
			}
			infos, err := c.Attach(t.Context(), host.Spec{
				Image: "tree", Store: "dir:" + s.path("store"), Frontend: frontendNBD, Where: "unix:" + s.path("nbd.sock"), Name: fmt.Sprint("disk", i),
			})
			if err == nil {
				disks[i], err = nbdclient.Dial(t.Context(), infos[0].Address)
			}
			if err == nil {
				_, err = disks[i].ReadAt(make([]byte, 4096), 0)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Errorf("%v\n%s", err, s.log())
	}
	if n := s.ready(); n != many {
		t.Errorf("%d attachments are ready, of %d", n, many)
	}
	for _, d := range disks {
		if d != nil {
			_ = d.Close()
		}
	}
}

// TestAgentOutlivesItsOutput upgrades an agent whose output nobody reads any more.
func TestAgentOutlivesItsOutput(t *testing.T) {
	s := newStation(t)
	cmd := exec.Command("rivulet", "agent")
	cmd.Env, cmd.Dir = s.env, s.home
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 6)); err != nil {
		t.Error(err)
	}
	_ = out.Close()
	for range 2 {
		if _, err := s.client().Upgrade(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.awaitReady(0)
	}
	_ = cmd.Wait()
}

// signalAgent upgrades the agent by signal, and waits until another one answers.
func (s *station) signalAgent(pids map[int]bool) {
	s.t.Helper()
	for _, pid := range s.processes() {
		if pids[pid] && syscall.Kill(pid, syscall.SIGUSR2) == nil {
			for end := time.Now().Add(bound); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
				if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
					return
				}
				if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); errors.Is(err, fs.ErrNotExist) || bytes.Contains(b, []byte(") Z ")) {
					return
				}
			}
			s.t.Fatalf("process %d does not end\n%s", pid, s.log())
		}
	}
	s.t.Fatalf("none of the processes %v is there to be upgraded\n%s", pids, s.log())
}

func (s *station) awaitReady(n int) {
	s.t.Helper()
	for end := time.Now().Add(bound); s.ready() != n; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("%d attachments are ready, want %d\n%s", s.ready(), n, s.log())
		}
	}
}

// compareReads reads from two devices until ctx ends, and wants the same.
func compareReads(ctx context.Context, c *nbdclient.Client, image *os.File) error {
	got, want := make([]byte, 256<<10), make([]byte, 256<<10)
	for ctx.Err() == nil {
		// Half of the reads where there is data, which is at the beginning.
		off := rand.Int64N(64 << 20)
		n := 1 + rand.IntN(len(got))
		if _, err := c.ReadAt(got[:n], off); err != nil {
			return err
		}
		if _, err := image.ReadAt(want[:n], off); err != nil {
			return err
		}
		if !bytes.Equal(got[:n], want[:n]) {
			return fmt.Errorf("%d bytes at %d are wrong", n, off)
		}
	}
	return nil
}
