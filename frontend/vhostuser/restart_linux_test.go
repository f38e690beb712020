package vhostuser

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/blockdev/blockdevtest"
	"github.com/rivuletfs/rivulet/frontend/vhostuser/vhostuserclient"
)

const backendVariable = "RIVULET_TEST_VHOST_USER"

// backend is what the test binary does as a process of its own: serve a file at a
// socket, slowly, until it is killed.
func backend(arguments string) {
	socket, path, _ := strings.Cut(arguments, "\n")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		panic(err)
	}
	st, err := f.Stat()
	if err != nil {
		panic(err)
	}
	_ = os.Remove(socket)
	ln, err := net.Listen("unix", socket)
	if err != nil {
		panic(err)
	}
	fmt.Println("ready")
	s := &Server{Export: Export{Device: slowWriter{blockdevtest.NewFile(f, st.Size())}}, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	if err := s.Serve(context.Background(), ln); err != nil {
		panic(err)
	}
}

// A slowWriter takes a moment over some calls, before or after the work, so that a
// kill meets requests in every state.
type slowWriter struct{ *blockdevtest.File }

func (d slowWriter) ReadAt(p []byte, off int64) (int, error) {
	moment()
	return d.File.ReadAt(p, off)
}

func (d slowWriter) WriteAt(p []byte, off int64) (int, error) {
	moment()
	defer moment()
	return d.File.WriteAt(p, off)
}

func moment() {
	if rand.IntN(4) == 0 {
		time.Sleep(rand.N(3 * time.Millisecond))
	}
}

func startBackend(t *testing.T, socket, path string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), backendVariable+"="+socket+"\n"+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("back end said %q, %v", line, err)
	}
	return cmd
}

// TestKilled kills back ends under load. The front end gets no error, each request
// is answered once, and what was written is there.
func TestKilled(t *testing.T) {
	kills, blocks := 20, int64(64)
	if testing.Short() {
		kills = 5
	}
	const writers, block = 8, 4096
	dir := t.TempDir()
	socket, path := filepath.Join(dir, "s"), filepath.Join(dir, "disk")
	if err := os.WriteFile(path, make([]byte, writers*blocks*block), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := startBackend(t, socket, path)
	c := dial(t, vhostuserclient.Dialer{Queues: 2, QueueSize: 8, Reconnect: true, Buffer: block}, socket)
	var stop atomic.Bool
	var done atomic.Int64
	var wg sync.WaitGroup
	for w := range int64(writers) {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 1))
			version := make([]uint64, blocks)
			p := make([]byte, block)
			for !stop.Load() {
				b := r.Int64N(blocks)
				at := (w*blocks + b) * block
				if r.IntN(3) > 0 {
					version[b]++
					stamp(p, at, version[b])
					if _, err := c.WriteAt(p, at); err != nil {
						t.Errorf("write: %v", err)
						return
					}
				} else if !checkStamp(t, c, p, at, version[b]) {
					return
				}
				done.Add(1)
			}
			for b := range blocks {
				if !checkStamp(t, c, p, (w*blocks+b)*block, version[b]) {
					return
				}
			}
		})
	}
	for range kills {
		for before := done.Load(); done.Load() < before+20 && !t.Failed(); {
			time.Sleep(time.Millisecond)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		cmd = startBackend(t, socket, path)
	}
	stop.Store(true)
	wg.Wait()
	if n := c.Spurious(); n != 0 {
		t.Errorf("%d requests were answered twice", n)
	}
	// A back end that was killed before it was set up adds to the gap before.
	t.Logf("%d requests, gaps %v", done.Load(), c.Gaps())
}

// stamp fills p as a version of the block at an offset.
func stamp(p []byte, at int64, version uint64) {
	for i := 0; i < len(p); i += 16 {
		binary.LittleEndian.PutUint64(p[i:], uint64(at))
		binary.LittleEndian.PutUint64(p[i+8:], version)
	}
	if version == 0 {
		clear(p)
	}
}

func checkStamp(t *testing.T, c *vhostuserclient.Client, p []byte, at int64, version uint64) bool {
	if _, err := c.ReadAt(p, at); err != nil {
		t.Errorf("read: %v", err)
		return false
	}
	want := make([]byte, len(p))
	if stamp(want, at, version); !bytes.Equal(p, want) {
		t.Errorf("block at %d is %x..., want version %d", at, p[:16], version)
		return false
	}
	return true
}

// TestHandedOver ends one server under load and has another go on, in one process.
func TestHandedOver(t *testing.T) {
	scratch := blockdevtest.NewScratch(make([]byte, 1<<20))
	path := filepath.Join(t.TempDir(), "s")
	stop := serveAt(t, &Server{Export: Export{Device: scratch}}, path)
	c := dial(t, vhostuserclient.Dialer{Reconnect: true, Chained: true, Queues: 2}, path)
	var end atomic.Bool
	var wg sync.WaitGroup
	for w := range int64(4) {
		wg.Go(func() {
			p := make([]byte, 4096)
			for v := uint64(1); !end.Load(); v++ {
				stamp(p, w*4096, v)
				if _, err := c.WriteAt(p, w*4096); err != nil {
					t.Errorf("write: %v", err)
					return
				}
				if !checkStamp(t, c, p, w*4096, v) {
					return
				}
			}
		})
	}
	var last *Server
	for range 10 {
		stop()
		last = &Server{Export: Export{Device: scratch}}
		stop = serveAt(t, last, path)
		for last.Stats().Requests < 20 && !t.Failed() {
			time.Sleep(time.Millisecond)
		}
	}
	end.Store(true)
	wg.Wait()
	if st := last.Stats(); st.Resubmitted != 0 || c.Spurious() != 0 {
		t.Errorf("a server that was shut down left requests: %+v", st)
	}
}
