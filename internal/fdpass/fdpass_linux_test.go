package fdpass

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/internal/openfiles"
)

func pair(t *testing.T) (a, b *Conn) {
	t.Helper()
	a, other, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	b, err = FromFile(other)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

func temporary(t *testing.T, content string) *File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := NewFile(fd)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestMessages(t *testing.T) {
	a, b := pair(t)
	files := []*File{temporary(t, "one"), temporary(t, "two")}
	if err := a.Send("first", files...); err != nil {
		t.Fatal(err)
	}
	if err := a.Send(map[string]int{"second": 2}); err != nil {
		t.Fatal(err)
	}
	var text string
	got, err := b.Receive(&text)
	if err != nil || text != "first" || len(got) != 2 {
		t.Fatalf("%q with %d descriptors, %v", text, len(got), err)
	}
	for i, want := range []string{"one", "two"} {
		p := make([]byte, 10)
		n, err := unix.Pread(got[i].FD(), p, 0)
		if err != nil || string(p[:n]) != want {
			t.Errorf("descriptor %d reads %q, %v", i, p[:n], err)
		}
		flags, err := unix.FcntlInt(uintptr(got[i].FD()), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("descriptor %d goes to children", i)
		}
	}
	CloseAll(got)
	CloseAll(got) // once more is nothing
	var second map[string]int
	if got, err := b.Receive(&second); err != nil || second["second"] != 2 || len(got) != 0 {
		t.Errorf("%v, %v", second, err)
	}
	_ = a.Close()
	if _, err := b.Receive(&text); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

// TestRefused keeps no descriptor of what it refuses.
func TestRefused(t *testing.T) {
	a, b := pair(t)
	f := temporary(t, "x")
	if err := a.Send(strings.Repeat("x", MaxMessage)); err == nil {
		t.Error("sent too long a message")
	}
	if err := a.Send("x", make([]*File, MaxFiles+1)...); err == nil {
		t.Error("sent too many descriptors")
	}
	before := openfiles.In(t)
	for what, write := range map[string]func() error{
		"no JSON": func() error { _, _, err := a.WriteMsgUnix([]byte("{"), Rights([]*File{f, f}), nil); return err },
		"too many": func() error {
			many := make([]*File, MaxFiles+1)
			for i := range many {
				many[i] = f
			}
			_, _, err := a.WriteMsgUnix([]byte("1"), Rights(many), nil)
			return err
		},
		"too long": func() error {
			_, _, err := a.WriteMsgUnix(make([]byte, MaxMessage+1), Rights([]*File{f}), nil)
			return err
		},
	} {
		if err := write(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		var v any
		if files, err := b.Receive(&v); err == nil || files != nil {
			t.Errorf("%s: received %v with %d descriptors", what, v, len(files))
		}
	}
	if after := openfiles.In(t); after != before {
		t.Errorf("%d descriptors are open, %d were", after, before)
	}
}

func TestFile(t *testing.T) {
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	f, err := Of(ln.(*net.UnixListener))
	if err != nil {
		t.Fatal(err)
	}
	second, err := f.Listener()
	if err != nil || second.Addr().String() != ln.Addr().String() {
		t.Fatalf("listener: %v", err)
	}
	_ = second.Close()
	if err := f.Close(); err != nil || f.FD() != -1 {
		t.Errorf("close: %v, descriptor %d", err, f.FD())
	}
	if _, err := f.Duplicate(); err == nil {
		t.Error("duplicated what is closed")
	}
	if _, err := f.Listener(); err == nil {
		t.Error("listens on what is closed")
	}
	client, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	if err := CheckPeer(client.(*net.UnixConn)); err != nil {
		t.Errorf("our own process: %v", err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := FromFile(null); err == nil {
		t.Error("a file is a socket of messages")
	}
}

// TestStranger is refused: a thread of this process connects as another user.
func TestStranger(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: becomes another user")
	}
	name := fmt.Sprintf("@rivulet-fdpass-%d", os.Getpid())
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	connected := make(chan error)
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		const nobody = 65534
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), nobody, ^uintptr(0)); e != 0 {
			connected <- e
			return
		}
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Connect(fd, &unix.SockaddrUnix{Name: name})
		}
		connected <- err
		<-done
		_ = unix.Close(fd)
	}()
	if err := <-connected; err != nil {
		t.Fatal(err)
	}
	defer close(done)
	c, err := ln.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if err := CheckPeer(c); !errors.Is(err, os.ErrPermission) {
		t.Errorf("another user's process: %v", err)
	}
}
