package keep

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/internal/fdpass"
	"github.com/rivuletfs/rivulet/internal/systemd"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// file returns a descriptor of a file with that content.
func file(t *testing.T, content string) *fdpass.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := fdpass.NewFile(fd)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func content(t *testing.T, f *fdpass.File) string {
	t.Helper()
	b := make([]byte, 100)
	n, err := unix.Pread(f.FD(), b, 0)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

// A world starts holders, in this process, and counts them.
type world struct {
	t        *testing.T
	path     string
	patience time.Duration

	mu      sync.Mutex
	started int
	end     context.CancelFunc // of the last
	ended   sync.WaitGroup
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, path: filepath.Join(t.TempDir(), "hold"), patience: time.Minute}
	t.Cleanup(func() { w.kill() })
	return w
}

func (w *world) start(ln *os.File) error {
	l, err := net.FileListener(ln)
	if err != nil {
		return err
	}
	ctx, end := context.WithCancel(context.Background())
	w.mu.Lock()
	w.started++
	w.end = end
	w.mu.Unlock()
	w.ended.Go(func() {
		if err := Hold(ctx, l.(*net.UnixListener), w.patience); err != nil {
			w.t.Errorf("Hold: %v", err)
		}
	})
	return nil
}

// kill ends the holder.
func (w *world) kill() {
	w.mu.Lock()
	if w.end != nil {
		w.end()
	}
	w.mu.Unlock()
	w.ended.Wait()
}

func (w *world) agent() (*Holder, *Inherited) {
	w.t.Helper()
	h, in, err := NewHolder(w.path, w.start)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = h.Close(); in.Close() })
	return h, in
}

func keepAll(t *testing.T, k Keeper, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := k.Keep(name, file(t, name)); err != nil {
			t.Fatal(err)
		}
	}
}

func wants(t *testing.T, in *Inherited, names ...string) {
	t.Helper()
	for _, name := range names {
		d, ok := in.Take(name)
		if !ok {
			t.Errorf("%s is not inherited", name)
			continue
		}
		if got := content(t, d.File); got != name {
			t.Errorf("%s is another file: %q", name, got)
		}
		_ = d.File.Close()
	}
	if left := in.Close(); len(left) != 0 {
		t.Errorf("also inherited: %q", left)
	}
}

// TestHolder keeps over agents that come and go, and forgets what they say.
func TestHolder(t *testing.T) {
	w := newWorld(t)
	first, in := w.agent()
	wants(t, in)
	if w.started != 0 {
		t.Error("a holder was started for nothing")
	}
	keepAll(t, first, "a", "b", "c")
	keepAll(t, first, "b") // in place of the first
	if err := first.Forget("c"); err != nil {
		t.Error(err)
	}
	if err := first.Forget("unknown"); err != nil {
		t.Error(err)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	second, in := w.agent()
	wants(t, in, "a", "b")
	third, in := w.agent() // beside the second, as in an upgrade
	wants(t, in, "a", "b")
	_ = second.Close()
	_, _ = third.Forget("a"), third.Forget("b")
	_ = third.Close()
	w.ended.Wait() // with nothing to keep and nobody there it ends
	if _, err := os.Lstat(w.path); err == nil && w.started != 1 {
		t.Errorf("%d holders were started", w.started)
	}
}

// TestHolderDies has another one started, with everything that was kept.
func TestHolderDies(t *testing.T) {
	for _, notice := range []string{"Keep", "Forget", "Check"} {
		t.Run(notice, func(t *testing.T) {
			w := newWorld(t)
			h, _ := w.agent()
			keepAll(t, h, "a", "b")
			w.kill()
			want := []string{"a", "b"}
			switch notice {
			case "Keep":
				keepAll(t, h, "c")
				want = append(want, "c")
			case "Forget":
				if err := h.Forget("b"); err != nil {
					t.Error(err)
				}
				want = []string{"a"}
			case "Check":
				if err := h.Check(); err != nil {
					t.Error(err)
				}
			}
			if err := h.Check(); err != nil || w.started != 2 {
				t.Errorf("%d holders were started, %v", w.started, err)
			}
			_ = h.Close()
			_, in := w.agent()
			wants(t, in, want...)
		})
	}
}

// TestHolderEnds comes to a holder that is about to end, and then starts another.
func TestHolderEnds(t *testing.T) {
	w := newWorld(t)
	ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: w.path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if c, err := ln.Accept(); err == nil {
			_ = c.Close()
		}
		_ = ln.Close()
	}()
	h, in := w.agent()
	<-ended
	wants(t, in)
	keepAll(t, h, "a")
	_, in = w.agent()
	wants(t, in, "a")
}

// TestHolderIsPatient lets go when no agent comes back.
func TestHolderIsPatient(t *testing.T) {
	w := newWorld(t)
	w.patience = 20 * time.Millisecond
	h, _ := w.agent()
	r, wr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	f, err := fdpass.Of(wr)
	if err != nil {
		t.Fatal(err)
	}
	_ = wr.Close()
	if err := h.Keep("pipe", f); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	_ = h.Close()
	w.ended.Wait()
	if n, err := r.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Error("the descriptor is still open somewhere")
	}
}

func TestNames(t *testing.T) {
	w := newWorld(t)
	h, _ := w.agent()
	f := file(t, "x")
	for _, k := range []Keeper{h, Systemd{}} {
		for _, name := range []string{"", "a:b", "a b", "a\n", strings.Repeat("x", MaxName+1)} {
			if err := k.Keep(name, f); err == nil {
				t.Errorf("%T keeps %q", k, name)
			}
		}
	}
}

// A manager is the part of systemd that keeps descriptors.
type manager struct {
	t     *testing.T
	c     *net.UnixConn
	names []string
	files []*fdpass.File
}

// next takes one message of a service.
func (m *manager) next() {
	m.t.Helper()
	b, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	if err := m.c.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		m.t.Fatal(err)
	}
	n, oobn, _, _, err := m.c.ReadMsgUnix(b, oob)
	if err != nil {
		m.t.Fatal(err)
	}
	state, name, _ := strings.Cut(string(b[:n]), "\nFDNAME=")
	switch state {
	case "FDSTORE=1":
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil || len(messages) != 1 {
			m.t.Fatalf("%d control messages, %v", len(messages), err)
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil || len(fds) != 1 {
			m.t.Fatalf("%d descriptors, %v", len(fds), err)
		}
		m.names, m.files = append(m.names, name), append(m.files, fdpass.NewFile(fds[0]))
	case "FDSTOREREMOVE=1":
		for i := len(m.names) - 1; i >= 0; i-- {
			if m.names[i] == name {
				_ = m.files[i].Close()
				m.names, m.files = slices.Delete(m.names, i, i+1), slices.Delete(m.files, i, i+1)
			}
		}
	default:
		m.t.Errorf("systemd is told %q", b[:n])
	}
}

func TestSystemd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	t.Setenv("NOTIFY_SOCKET", path)
	if HasSystemd() {
		t.Error("a systemd that says nothing of descriptors keeps them")
	}
	t.Setenv("FDSTORE", "100")
	if !HasSystemd() {
		t.Error("a systemd that says so does not keep descriptors")
	}
	m := &manager{t: t, c: c}
	k, in := NewSystemd(nil)
	wants(t, in)
	keepAll(t, k, "a", "b", "b", "c")
	if err := k.Forget("c"); err != nil {
		t.Error(err)
	}
	for range 4*2 + 1 { // each Keep forgets the name first
		m.next()
	}
	if fmt.Sprint(m.names) != "[a b]" {
		t.Fatalf("systemd keeps %q", m.names)
	}
	var passed []systemd.Inherited
	for i, name := range m.names {
		passed = append(passed, systemd.Inherited{Name: name, File: m.files[i]})
	}
	_, in = NewSystemd(passed)
	wants(t, in, "a", "b")
	_ = c.Close()
	if err := k.Keep("d", file(t, "d")); err == nil {
		t.Error("systemd has gone, and no error")
	}
	if err := (None{}).Keep("x", nil); err != nil || errors.Join((None{}).Forget("x"), None{}.Close(), k.Close()) != nil {
		t.Errorf("None: %v", err)
	}
}
