package cached_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/cached"
	"github.com/rivuletfs/rivulet/cached/cachedclient"
	"github.com/rivuletfs/rivulet/cached/cachedtest"
	"github.com/rivuletfs/rivulet/cached/internal/wire"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/internal/openfiles"
	"github.com/rivuletfs/rivulet/store/cache"
	"github.com/rivuletfs/rivulet/store/download"
)

// The tests of this file run the test binary as daemons and clients, and kill and
// stop those.

// childVariable tells the test binary what to be.
const childVariable = "RIVULET_CACHED_CHILD"

// processChunks are the chunks that everybody reads.
func processChunks() (list []chunktest.Object) {
	for i := range 12 {
		list = append(list, full(uint64(1000+i)))
	}
	return list
}

// child is what a child process does.
func child(what string) {
	args := strings.Fields(what)
	var err error
	switch args[0] {
	case "daemon":
		err = childDaemon(args[1], args[2])
	case "reader":
		err = childReader(args[1], args[2], args[3])
	case "holder":
		err = childHolder(args[1])
	case "connect":
		err = childConnect(args[1])
	case "administer":
		err = childAdminister(args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func childDaemon(dir, socket string) error {
	disk, err := cache.Open(context.Background(), cache.Config{Dir: dir, MaxBytes: 1 << 30})
	if err != nil {
		return err
	}
	d, err := download.New(download.Options{})
	if err != nil {
		return err
	}
	s, err := cached.New(cached.Config{Cache: disk, Download: d, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	_ = os.Remove(socket)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	return s.Serve(l)
}

// connected, as childReader's seconds, has it read until the daemon has answered.
const connected = "connected"

// childReader reads all chunks, in an order of its own, or at random for so many
// seconds, and compares every byte.
func childReader(socket, url, seconds string) error {
	before, err := openfiles.Count()
	if err != nil {
		return err
	}
	c := cachedclient.New(cachedclient.Config{Socket: socket, Silence: 3 * time.Second})
	defer c.Close()
	r := c.Reader(chunk.NewDoor(cachedtest.Remote{URL: url}), cachedtest.Remote{URL: url})
	list := processChunks()
	enough := func(time.Duration) bool { return c.Stats().Connects > 0 }
	if seconds != connected {
		until, err := strconv.ParseFloat(seconds, 64)
		if err != nil {
			return err
		}
		enough = func(took time.Duration) bool { return took.Seconds() >= until }
	}
	begun, slowest := time.Now(), time.Duration(0)
	read := func(i int) error {
		o, at := &list[i], time.Now()
		b := make([]byte, len(o.Bytes))
		n, err := r.ReadChunk(context.Background(), o.ID, b, 0)
		if err != nil || !bytes.Equal(b[:n], o.Bytes) {
			return fmt.Errorf("chunk %d: %d bytes, %v", i, n, err)
		}
		slowest = max(slowest, time.Since(at))
		return nil
	}
	for _, i := range rand.Perm(len(list)) {
		if err := read(i); err != nil {
			return err
		}
	}
	for took := time.Since(begun); !enough(took); took = time.Since(begun) {
		if took > time.Minute {
			return errors.New("the daemon does not come back")
		}
		if err := read(rand.IntN(len(list))); err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	s := c.Stats()
	c.Close()
	http.DefaultClient.CloseIdleConnections()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		after, err := openfiles.Count()
		if err != nil {
			return err
		}
		if after <= before+2 { // the runtime's poller
			break
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d descriptors, %d before", after, before)
		}
	}
	fmt.Printf("slowest %d connects %d fallbacks %d\n", slowest.Milliseconds(), s.Connects, s.Fallbacks)
	return nil
}

// childHolder takes the lease of every chunk and does nothing with it.
func childHolder(socket string) error {
	s, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return err
	}
	c := wire.NewConn(s, true, time.Second)
	if err := c.Write(wire.Hello, 0, wire.Greeting{Version: wire.Version}.Append, nil); err != nil {
		return err
	}
	if _, err := c.Read(); err != nil {
		return err
	}
	for i, o := range processChunks() {
		if err := c.Write(wire.Get, uint64(i+1), (&wire.Want{ID: o.ID, WaitMillis: long}).Append, nil); err != nil {
			return err
		}
		if m, err := c.Read(); err != nil || m.Type != wire.Lease {
			return fmt.Errorf("%v, %v; want a lease", m.Type, err)
		}
	}
	fmt.Println("ready")
	time.Sleep(time.Minute)
	return nil
}

// childConnect reports whether the daemon welcomes this user.
func childConnect(socket string) error {
	c := cachedclient.New(cachedclient.Config{Socket: socket})
	defer c.Close()
	return c.Ping(context.Background())
}

// childAdminister reports, by an error, whether this user may do nothing that is
// an administrator's.
func childAdminister(socket string) error {
	c := cachedclient.New(cachedclient.Config{Socket: socket})
	defer c.Close()
	ctx, id := context.Background(), chunktest.Absent
	_, stats := c.DaemonStats(ctx)
	_, scrub := c.Scrub(ctx, 0)
	list := c.List(ctx, func(cachedclient.Entry) error { return nil })
	for i, err := range []error{stats, scrub, list, c.Pin(ctx, id), c.Unpin(ctx, id), c.Evict(ctx, id)} {
		if !errors.Is(err, cachedclient.ErrRefused) {
			return fmt.Errorf("%d: %v", i, err)
		}
	}
	return c.Ping(ctx)
}

// A process is a child.
type process struct {
	t   testing.TB
	cmd *exec.Cmd
	out *bufio.Reader
	err bytes.Buffer
}

// run starts a child, killed at the end of the test.
func run(t testing.TB, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(os.Args[0])}
	p.cmd.Env = append(os.Environ(), childVariable+"="+strings.Join(args, " "))
	p.cmd.Stderr = &p.err
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	return p
}

// ready waits until the child says that it is.
func (p *process) ready() *process {
	p.t.Helper()
	if line, err := p.out.ReadString('\n'); line != "ready\n" {
		p.t.Fatalf("child says %q, %v: %s", line, err, p.err.String())
	}
	return p
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

func (p *process) kill() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	}
}

// holdsNoChunk checks that the child, a daemon, soon has no chunk's file open.
func (p *process) holdsNoChunk() {
	p.t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd/", p.cmd.Process.Pid)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		list, err := os.ReadDir(dir)
		if err != nil {
			p.t.Fatal(err)
		}
		open := 0
		for _, e := range list {
			to, _ := os.Readlink(dir + e.Name()) // it may be closed by now
			for _, o := range processChunks() {
				if strings.Contains(to, o.ID.String()) {
					open++
				}
			}
		}
		if open == 0 {
			return
		}
		if time.Now().After(end) {
			p.t.Fatalf("the daemon has %d files of chunks open", open)
		}
	}
}

// succeeds waits for the child's end and returns its last line.
func (p *process) succeeds() string {
	p.t.Helper()
	line, _ := p.out.ReadString('\n')
	if err := p.cmd.Wait(); err != nil {
		p.t.Fatalf("child: %v\n%s", err, p.err.String())
	}
	return line
}

// once checks that each chunk left the origin once.
func once(t *testing.T, o *cachedtest.Origin) {
	t.Helper()
	asked := o.Asked()
	for _, c := range processChunks() {
		if asked[c.ID] != 1 {
			t.Errorf("chunk %v left the origin %d times", c.ID, asked[c.ID])
		}
	}
}

// TestProcesses has many processes read the same chunks at once.
func TestProcesses(t *testing.T) {
	o, socket := cachedtest.NewOrigin(t, processChunks()...), cachedtest.SocketIn(t)
	o.Delay(20 * time.Millisecond)
	d := run(t, "daemon", t.TempDir(), socket).ready()
	var readers []*process
	for range 8 {
		readers = append(readers, run(t, "reader", socket, o.URL, "0"))
	}
	for _, r := range readers {
		r.succeeds()
	}
	once(t, o)
	if runtime.GOOS == "linux" {
		d.holdsNoChunk()
	}
	d.kill()
	if s := d.err.String(); strings.Contains(s, cachedtest.Secret) {
		t.Errorf("the daemon's log has a token in it:\n%s", s)
	}
}

// TestHolderDies kills, or stops, a process that has every lease: others read all
// the same, and each chunk leaves the origin once.
func TestHolderDies(t *testing.T) {
	for name, s := range map[string]syscall.Signal{"SIGKILL": syscall.SIGKILL, "SIGSTOP": syscall.SIGSTOP} {
		t.Run(name, func(t *testing.T) {
			o, socket := cachedtest.NewOrigin(t, processChunks()...), cachedtest.SocketIn(t)
			run(t, "daemon", t.TempDir(), socket).ready()
			holder := run(t, "holder", socket).ready()
			a, b := run(t, "reader", socket, o.URL, "0"), run(t, "reader", socket, o.URL, "0")
			holder.signal(s)
			a.succeeds()
			b.succeeds()
			once(t, o)
			holder.kill() // SIGKILL ends a stopped one
		})
	}
}

// TestDaemonDies kills the daemon again and again under readers, who see nothing
// of it.
func TestDaemonDies(t *testing.T) {
	o, socket, dir := cachedtest.NewOrigin(t, processChunks()...), cachedtest.SocketIn(t), t.TempDir()
	d := run(t, "daemon", dir, socket).ready()
	a, b := run(t, "reader", socket, o.URL, "3"), run(t, "reader", socket, o.URL, "3")
	for range 4 {
		time.Sleep(400 * time.Millisecond)
		d.kill()
		d = run(t, "daemon", dir, socket).ready()
	}
	for _, p := range []*process{a, b} {
		var slowest, connects, fallbacks int
		line := p.succeeds()
		if _, err := fmt.Sscanf(line, "slowest %d connects %d fallbacks %d", &slowest, &connects, &fallbacks); err != nil || slowest > 10000 || connects == 0 {
			t.Errorf("%q, %v", line, err)
		}
	}
	run(t, "reader", socket, o.URL, "0").succeeds()
}

// TestDaemonStops stops the daemon under a reader, which waits for a bounded time
// and goes on by itself, and comes back when the daemon does.
func TestDaemonStops(t *testing.T) {
	o, socket := cachedtest.NewOrigin(t, processChunks()...), cachedtest.SocketIn(t)
	d := run(t, "daemon", t.TempDir(), socket).ready()
	d.signal(syscall.SIGSTOP)
	line := run(t, "reader", socket, o.URL, "0").succeeds()
	var slowest, connects, fallbacks int
	if _, err := fmt.Sscanf(line, "slowest %d connects %d fallbacks %d", &slowest, &connects, &fallbacks); err != nil || slowest > 10000 || fallbacks != len(processChunks()) {
		t.Errorf("with a stopped daemon: %q, %v", line, err)
	}
	reader := run(t, "reader", socket, o.URL, connected)
	time.Sleep(300 * time.Millisecond)
	d.signal(syscall.SIGCONT)
	line = reader.succeeds()
	if _, err := fmt.Sscanf(line, "slowest %d connects %d fallbacks %d", &slowest, &connects, &fallbacks); err != nil || connects == 0 {
		t.Errorf("after it went on: %q, %v", line, err)
	}
}

const stranger, group = 65534, 54321 // numbers of a user and a group

// open starts a daemon whose socket everybody can reach, and returns this program
// where everybody can run it.
func open(t *testing.T) (d *cachedtest.Daemon, program string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be others")
	}
	d = cachedtest.Start(t, func(c *cached.Config) { c.Group = group })
	dir := filepath.Dir(d.Socket)
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(d.Socket, 0o777)); err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile(os.Args[0]) // in a folder that others cannot enter
	if err != nil {
		t.Fatal(err)
	}
	program = filepath.Join(dir, "program")
	if err := os.WriteFile(program, self, 0o755); err != nil {
		t.Fatal(err)
	}
	return d, program
}

// runAs runs a child as somebody else.
func runAs(program, what string, as syscall.Credential) error {
	cmd := exec.Command(program)
	cmd.Env = []string{childVariable + "=" + what}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &as}
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// TestStrangers lets users in by the kernel's word, whatever the socket's mode
// says.
func TestStrangers(t *testing.T) {
	d, program := open(t)
	for _, c := range []struct {
		name string
		as   syscall.Credential
		let  bool
	}{
		{"root", syscall.Credential{}, true},
		{"a stranger", syscall.Credential{Uid: stranger, Gid: stranger}, false},
		{"a member", syscall.Credential{Uid: stranger, Gid: group}, true},
		{"a member by the way", syscall.Credential{Uid: stranger, Gid: stranger, Groups: []uint32{7, group}}, true},
	} {
		if err := runAs(program, "connect "+d.Socket, c.as); (err == nil) != c.let {
			t.Errorf("%s: %v; want to be let in: %v", c.name, err, c.let)
		}
	}
	if s := d.Server.Stats(); s.Refused == 0 {
		t.Error("nobody was refused")
	}
}

func TestMembersDoNotAdminister(t *testing.T) {
	d, program := open(t)
	if err := runAs(program, "administer "+d.Socket, syscall.Credential{Uid: stranger, Gid: group}); err != nil {
		t.Error(err)
	}
}

// FuzzRequests says anything at all to a daemon, which goes on serving others.
func FuzzRequests(f *testing.F) {
	add := func(kind wire.Type, payload []byte) {
		f.Add(append(wire.Header{Len: uint32(len(payload)), Type: kind, Request: 1}.Append(nil), payload...))
	}
	o := full(1)
	add(wire.Get, (&wire.Want{ID: o.ID, WaitMillis: 1}).Append(nil))
	add(wire.Deposit, (&wire.Piece{Lease: 1, Size: 5, Data: []byte("12345")}).Append(nil))
	add(wire.Touch, wire.AppendIDs(nil, o.ID))
	add(wire.Evict, wire.AppendIDs(nil, o.ID))
	add(wire.List, wire.AppendIDs(nil, chunk.ID{}))
	add(wire.Scrub, wire.AppendNumber(nil, 0))
	add(wire.Stats, nil)
	d := cachedtest.Start(f, nil)
	f.Fuzz(func(t *testing.T, b []byte) {
		k := talk(t, d.Socket)
		_, _ = k.wire.Socket().Write(b)
		_ = k.wire.Socket().CloseWrite()
		_ = k.wire.Socket().SetReadDeadline(time.Now().Add(10 * time.Second))
		var err error
		for err == nil {
			var m wire.Message
			m, err = k.wire.Read()
			m.Close()
		}
		_ = k.wire.Close()
		other := talk(t, d.Socket)
		other.heard()
		_ = other.wire.Close()
	})
}
