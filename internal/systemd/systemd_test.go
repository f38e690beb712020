package systemd

import (
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
)

// inheritChild tells the test binary to be the child of TestInherited.
const inheritChild = "RIVULET_INHERIT_CHILD"

// inherit runs the test binary with files as its inherited listeners.
func inherit(t *testing.T, name string, files ...*os.File) (output string, err error) {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" -test.run "^$1\$"`, os.Args[0], name)
	cmd.Env = append(os.Environ(), inheritChild+"=1", "LISTEN_FDS="+strconv.Itoa(len(files)), "LISTEN_FDNAMES=a:b")
	cmd.ExtraFiles = files
	b, err := cmd.CombinedOutput()
	return string(b), err
}

func TestInherited(t *testing.T) {
	if os.Getenv(inheritChild) != "" {
		greetInherited(t)
		return
	}
	dir := t.TempDir()
	var files []*os.File
	for network, addr := range map[string]string{"unix": filepath.Join(dir, "s"), "tcp": "127.0.0.1:0"} {
		ln, err := net.Listen(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = ln.Close() }()
		f, err := ln.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		files = append(files, f)
		nc, err := net.Dial(network, ln.Addr().String()) // waits in the backlog
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			defer func() { _ = nc.Close() }()
			if got, err := io.ReadAll(nc); string(got) != "hello" || err != nil {
				t.Errorf("%s: inherited listener says %q, %v", addr, got, err)
			}
		}()
	}
	if out, err := inherit(t, t.Name(), files...); err != nil {
		t.Errorf("child: %v\n%s", err, out)
	}
}

// greetInherited is the child: it greets one client of each listener.
func greetInherited(t *testing.T) {
	all, err := TakeListeners()
	if err != nil || len(all) != 2 {
		t.Fatalf("%d listeners, %v; want 2", len(all), err)
	}
	for _, ln := range all {
		nc, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_, _ = nc.Write([]byte("hello"))
		_ = nc.Close()
		_ = ln.Close()
	}
	if again, err := TakeListeners(); err != nil || len(again) != 0 {
		t.Errorf("the second call finds %d listeners, %v", len(again), err)
	}
}

// TestInheritedFiles inherits what is no listener: an error, and nothing open.
func TestInheritedFiles(t *testing.T) {
	const fileSize = 1234
	if os.Getenv(inheritChild) != "" {
		if all, err := TakeListeners(); err == nil || len(all) != 0 {
			t.Errorf("%d listeners, %v; want an error", len(all), err)
		}
		for fd := firstInherited; fd < firstInherited+2; fd++ {
			var st syscall.Stat_t // the runtime may use the number again
			if err := syscall.Fstat(fd, &st); err == nil && st.Size == fileSize {
				t.Errorf("descriptor %d is still open", fd)
			}
		}
		return
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := f.Truncate(fileSize); err != nil {
		t.Fatal(err)
	}
	if out, err := inherit(t, t.Name(), f, f); err != nil {
		t.Errorf("child: %v\n%s", err, out)
	}
}

func TestInheritedVariables(t *testing.T) {
	self := strconv.Itoa(os.Getpid())
	for _, c := range []struct {
		pid, fds string
		ok       bool
	}{{"", "", true}, {"1", "3", true}, {self, "0", true}, {self, "", false}, {self, "-1", false}, {self, "16385", false}, {self, "x", false}} {
		t.Setenv("LISTEN_PID", c.pid)
		t.Setenv("LISTEN_FDS", c.fds)
		all, err := TakeListeners()
		if len(all) != 0 || (err == nil) != c.ok {
			t.Errorf("LISTEN_PID=%s LISTEN_FDS=%s: %d listeners, %v", c.pid, c.fds, len(all), err)
		}
		if _, there := os.LookupEnv("LISTEN_FDS"); there {
			t.Errorf("LISTEN_FDS=%s stays for children", c.fds)
		}
	}
}

func TestNotify(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if err := Notify("READY=1"); err != nil {
		t.Errorf("without systemd: %v", err)
	}
	names := []string{filepath.Join(t.TempDir(), "notify")}
	if runtime.GOOS == "linux" {
		names = append(names, "@rivulet-notify-"+strconv.Itoa(os.Getpid()))
	}
	for _, name := range names {
		t.Setenv("NOTIFY_SOCKET", name)
		if err := Notify("READY=1"); err == nil {
			t.Errorf("%s: nobody listens, and no error", name)
		}
		c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		if err := Notify("READY=1"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		b := make([]byte, 100)
		if n, err := c.Read(b); err != nil || string(b[:n]) != "READY=1" {
			t.Errorf("%s: got %q, %v", name, b[:n], err)
		}
		_ = c.Close()
	}
}
