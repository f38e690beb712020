package fuse_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/frontend/fuse"
	"github.com/rivuletfs/rivulet/frontend/loopmount"
)

// handOver ends serving in this process and returns what a child needs.
func handOver(t *testing.T, s *fuse.Session) (fd int, st fuse.State) {
	t.Helper()
	fd, err := s.Descriptor()
	if err != nil {
		t.Fatal(err)
	}
	st = s.State()
	if err := s.Release(); err != nil {
		t.Fatal(err)
	}
	return fd, st
}

// unmountLate ends a mount that no Session of this process serves any more.
func unmountLate(t *testing.T, dir string) {
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// diffCold drops the page cache and returns a comparison to start.
func diffCold(t *testing.T, source, dir string) *exec.Cmd {
	t.Helper()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		t.Fatal(err)
	}
	return exec.Command("diff", "-r", "-x", "lost+found", source, dir)
}

func needResend(t *testing.T, s *fuse.Session) {
	t.Helper()
	const hasResend = 1 << 39
	if s.State().Flags&hasResend == 0 {
		t.Skip("needs Linux 6.9: requests sent again")
	}
}

func TestTakeoverUnderLoopMount(t *testing.T) {
	s, image, source := showImage(t)
	needResend(t, s)
	m := loopMount(t, s, loopmount.Options{})
	fd, st := handOver(t, s)
	defer func() { _ = unix.Close(fd) }()
	unmountLate(t, st.Dir)

	// Reads are slow, so that each killed child leaves some behind it.
	kill := startChild(t, fd, childOrder{State: st, Image: image, Delay: 20 * time.Millisecond})
	for range 3 {
		diff := diffCold(t, source, m.Dir)
		if err := diff.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond) // somewhere in the middle of reading
		kill()
		kill = startChild(t, fd, childOrder{State: st, Image: image, Delay: 5 * time.Millisecond})
		if err := waitBounded(t, diff); err != nil {
			t.Fatalf("diff over a takeover: %v", err)
		}
	}
	if err := m.Unmount(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// waitBounded waits for a program, and fails the test if it hangs.
func waitBounded(t *testing.T, cmd *exec.Cmd) error {
	t.Helper()
	end := make(chan error, 1)
	go func() { end <- cmd.Wait() }()
	select {
	case err := <-end:
		return err
	case <-time.After(bound):
		_ = cmd.Process.Kill()
		t.Fatalf("%s hangs", cmd.Path)
		return nil
	}
}

func TestKilledServerFailsReaders(t *testing.T) {
	image, source := makeImage(t)
	for _, loop := range []bool{false, true} {
		name := "file"
		if loop {
			name = "ext4 on loop"
		}
		t.Run(name, func(t *testing.T) {
			needLoop(t)
			s := mount(t, fuse.Options{})
			d, err := openDisk(image, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.AddDisk(d); err != nil {
				t.Fatal(err)
			}
			reader := exec.Command("dd", "if="+filepath.Join(s.Dir(), "disk"), "of=/dev/null", "bs=4k", "iflag=direct")
			var m *loopmount.Mounted
			if loop {
				m = loopMount(t, s, loopmount.Options{})
			}
			fd, st := handOver(t, s)
			unmountLate(t, st.Dir)
			kill := startChild(t, fd, childOrder{State: st, Image: image, Delay: 10 * time.Millisecond})
			if err := unix.Close(fd); err != nil { // the child is the last holder
				t.Fatal(err)
			}
			if loop {
				reader = diffCold(t, source, m.Dir)
			}
			if err := reader.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
			kill()
			var exit *exec.ExitError
			if err := waitBounded(t, reader); !errors.As(err, &exit) {
				t.Fatalf("reader of a dead server: %v, want a failure", err)
			}
			if loop {
				if err := m.Unmount(t.Context()); err != nil {
					t.Fatalf("unmount over a dead server: %v", err)
				}
			}
		})
	}
}

// TestReleaseAndResume hands a session over within one process, under reads.
func TestReleaseAndResume(t *testing.T) {
	s, image, _ := showImage(t)
	needResend(t, s)
	cmp := exec.Command("cmp", image, filepath.Join(s.Dir(), "disk"))
	if err := cmp.Start(); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		fd, st := handOver(t, s)
		d, err := openDisk(image, time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		if s, err = fuse.Resume(fd, st, []fuse.Disk{d}, fuse.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := waitBounded(t, cmp); err != nil {
		t.Fatal(err)
	}
	unmounted(t, s)
}

func TestResumeRefuses(t *testing.T) {
	good := fuse.State{Version: 1, Dir: "/mnt", Minor: 40}
	for name, change := range map[string]func(*fuse.State){
		"another version":  func(st *fuse.State) { st.Version = 2 },
		"no mount point":   func(st *fuse.State) { st.Dir = "" },
		"relative":         func(st *fuse.State) { st.Dir = "mnt" },
		"not negotiated":   func(st *fuse.State) { st.Minor = 0 },
		"not a descriptor": func(*fuse.State) {},
	} {
		st := good
		change(&st)
		null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fuse.Resume(null, st, nil, fuse.Options{}); err == nil {
			t.Errorf("%s: resumed", name)
		}
	}
}
