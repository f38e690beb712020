package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/blockdev/blockdevtest"
	"github.com/rivuletfs/rivulet/frontend/nbd"
	"github.com/rivuletfs/rivulet/frontend/nbd/nbdclient"
)

const diskSize = 1 << 20

// A device is a disk that can go wrong.
type device struct {
	blockdev.Device
	flip, broken atomic.Bool
	pause        atomic.Int64 // nanoseconds
	reads        atomic.Int64
}

func (d *device) ReadAt(p []byte, off int64) (int, error) {
	d.reads.Add(1)
	time.Sleep(time.Duration(d.pause.Load()))
	if d.broken.Load() {
		return 0, errors.New("broken")
	}
	n, err := d.Device.ReadAt(p, off)
	if d.flip.Load() {
		p[len(p)/2] ^= 1
	}
	return n, err
}

// serve serves a disk named "disk" until the test ends or end is called.
func serve(t *testing.T, socket string, content []byte) (d *device, end func()) {
	t.Helper()
	d = &device{Device: blockdevtest.NewMemory(content, nil)}
	s := &nbd.Server{Log: slog.New(slog.DiscardHandler)}
	if err := s.AddExport(nbd.Export{Name: "disk", Device: d}); err != nil {
		t.Fatal(err)
	}
	ln, err := nbd.Listen("unix:" + socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(context.Background(), ln)
	}()
	end = func() {
		s.Close()
		<-done
	}
	t.Cleanup(end)
	return d, end
}

func newLoad(t *testing.T, content []byte) (l *load, socket string) {
	t.Helper()
	dir := t.TempDir()
	socket = filepath.Join(dir, "s")
	file := filepath.Join(dir, "disk")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	l = &load{
		disks: make(map[string]*reference), uris: []string{"nbd+unix:///disk?socket=" + socket},
		starts: 20, workers: 4, ranges: 10, bound: 10 * time.Second, seed: 1,
	}
	if err := l.addDisk("disk=" + file); err != nil {
		t.Skip(err) // a file system without holes
	}
	t.Cleanup(func() { _ = l.disks["disk"].file.Close() })
	return l, socket
}

func TestStarts(t *testing.T) {
	content := blockdevtest.Pattern(diskSize, 1)
	l, socket := newLoad(t, content)
	d, _ := serve(t, socket, content)
	readers, err := l.read()
	if err != nil {
		t.Fatal(err)
	}
	if s := summary(readers, time.Second); s.Readers != 20 || s.Reads != 200 || s.Bytes < 200*512 || s.Reconnects != 0 {
		t.Errorf("%+v", s)
	}
	d.flip.Store(true)
	if _, err := l.read(); err == nil || !strings.Contains(err.Error(), "wrong byte") {
		t.Errorf("flipped: %v", err)
	}
	d.flip.Store(false)
	d.broken.Store(true)
	var answered nbdclient.Errno
	if _, err := l.read(); !errors.As(err, &answered) {
		t.Errorf("broken: %v", err)
	}
	d.broken.Store(false)
	d.pause.Store(int64(time.Second))
	l.bound = 50 * time.Millisecond
	if _, err := l.read(); err == nil {
		t.Error("nobody notices that answers are late")
	}
}

// TestReconnects has another server in the place of the first.
func TestReconnects(t *testing.T) {
	content := blockdevtest.Pattern(diskSize, 1)
	l, socket := newLoad(t, content)
	l.length = 2 * time.Second
	d, end := serve(t, socket, content)
	var readers []*reader
	failed := make(chan error, 1)
	go func() {
		var err error
		readers, err = l.read()
		failed <- err
	}()
	for d.reads.Load() < 100 { // then somebody has the answer to a first read
		time.Sleep(time.Millisecond)
	}
	end()
	serve(t, socket, content)
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	if s := summary(readers, time.Second); s.Reconnects == 0 {
		t.Errorf("%+v, want reconnects", s)
	}
}

func TestNames(t *testing.T) {
	l := load{disks: map[string]*reference{"a": {}}}
	for uri, ok := range map[string]bool{
		"nbd+unix:///a?socket=/x": true, "agent:///a?socket=/x": true,
		"nbd+unix:///b?socket=/x": false, "agent:///b?socket=/x": false, "agent:///a": false, "ftp:a": false,
	} {
		if _, err := l.disk(uri); (err == nil) != ok {
			t.Errorf("%s: %v", uri, err)
		}
	}
}

// TestRanges wants ranges inside of data only, the same for the same seed.
func TestRanges(t *testing.T) {
	r := &reference{data: []extent{{4096, 8192}, {1 << 20, 4096}, {3 << 20, 300 << 10}}, size: 8192 + 4096 + 300<<10}
	list := r.ranges(rand.New(rand.NewPCG(1, 0)), 1000)
	seen := make(map[int64]bool)
	for _, x := range list {
		inside := false
		for _, d := range r.data {
			inside = inside || x.offset >= d.offset && x.offset+x.length <= d.offset+d.length
		}
		if !inside || x.length < 1 || x.length > block<<(sizes-1) || x.offset%block != 0 {
			t.Fatalf("%+v", x)
		}
		seen[x.offset] = true
	}
	if !seen[4096] || !seen[8192] || !seen[1<<20] {
		t.Error("data that is never read")
	}
	if again := r.ranges(rand.New(rand.NewPCG(1, 0)), 1000); fmt.Sprint(again) != fmt.Sprint(list) {
		t.Error("another list from one seed")
	}
}
