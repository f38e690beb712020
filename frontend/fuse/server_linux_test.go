package fuse_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/frontend/fuse"
)

// bound is how long a test waits for what must happen soon: only a failing
// test waits so long.
const bound = 30 * time.Second

// childEnv carries a child's orders; see runChild.
const childEnv = "RIVULET_FUSE_TEST_CHILD"

func TestMain(m *testing.M) {
	if orders := os.Getenv(childEnv); orders != "" {
		if err := runChild(orders); err != nil {
			fmt.Fprintln(os.Stderr, "child:", err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// A childOrder tells a child which session to resume on descriptor 3.
type childOrder struct {
	State fuse.State
	Image string        // shown as "disk"
	Delay time.Duration // of every call
}

// A fileDevice is a file as a device that can be written, slow if asked.
type fileDevice struct {
	*os.File
	size  int64
	delay time.Duration
}

func (d *fileDevice) Size() int64 { return d.size }

func (d *fileDevice) ReadAt(p []byte, off int64) (int, error) {
	time.Sleep(d.delay)
	return d.File.ReadAt(p, off)
}

func (d *fileDevice) WriteAt(p []byte, off int64) (int, error) {
	time.Sleep(d.delay)
	return d.File.WriteAt(p, off)
}

func (d *fileDevice) Flush() error { return d.Sync() }

func (d *fileDevice) Discard(off, length int64) error { return d.WriteZeroes(off, length) }

func (d *fileDevice) WriteZeroes(off, length int64) error {
	_, err := d.File.WriteAt(make([]byte, length), off)
	return err
}

func openDisk(image string, delay time.Duration) (fuse.Disk, error) {
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return fuse.Disk{}, err
	}
	st, err := f.Stat()
	if err != nil {
		return fuse.Disk{}, err
	}
	return fuse.Disk{Name: "disk", ID: image, Device: &fileDevice{f, st.Size(), delay}}, nil
}

func runChild(orders string) error {
	var o childOrder
	if err := json.Unmarshal([]byte(orders), &o); err != nil {
		return err
	}
	d, err := openDisk(o.Image, o.Delay)
	if err != nil {
		return err
	}
	s, err := fuse.Resume(3, o.State, []fuse.Disk{d}, fuse.Options{})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	return s.Wait()
}

// startChild resumes a session in another process. The caller keeps or closes
// fd; kill ends the child with SIGKILL.
func startChild(t *testing.T, fd int, o childOrder) (kill func()) {
	t.Helper()
	b, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(dup), "fuse")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+string(b))
	cmd.ExtraFiles = []*os.File{file}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = file.Close()
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("child said %q: %v", line, err)
	}
	killed := false
	kill = func() {
		if !killed {
			killed = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	t.Cleanup(kill)
	return kill
}

func needMount(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("needs /dev/fuse: ", err)
	}
}

func needTool(t testing.TB, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skip("needs the program ", name)
	}
}

// mount returns a session that is closed at the test's end.
func mount(t testing.TB, o fuse.Options) *fuse.Session {
	t.Helper()
	needMount(t)
	s, err := fuse.Mount(t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		select {
		case <-s.Done():
		default:
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return s
}

// command runs a program, bounded, and returns what it printed.
func command(t testing.TB, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// makeImage writes an ext4 image with a source tree in it.
func makeImage(t testing.TB) (image, source string) {
	t.Helper()
	needTool(t, "mke2fs")
	dir := t.TempDir()
	source = filepath.Join(dir, "source")
	for i := range 40 {
		sub := filepath.Join(source, fmt.Sprint("d", i%7))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		data := make([]byte, 1000+i*i*777)
		for j := range data {
			data[j] = byte(j*i + j>>8)
		}
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprint("f", i)), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	image = filepath.Join(dir, "image")
	command(t, "mke2fs", "-q", "-t", "ext4", "-d", source, image, "64M")
	if err := os.Remove(filepath.Join(source, "lost+found")); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return image, source
}
