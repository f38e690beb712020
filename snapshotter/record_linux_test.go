package snapshotter

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/opencontainers/go-digest"
)

func someRecord() *record {
	return &record{
		Version: recordVersion, Chain: digest.FromString("chain"), Disk: &Disk{"dir:/images", digest.FromString("map")},
		Reference: "example.org/x:1", Manifest: digest.FromString("manifest"), Usage: snapshots.Usage{Size: 5, Inodes: 2},
	}
}

func TestRecord(t *testing.T) {
	dir := t.TempDir()
	if _, err := readRecord(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("read what is not there: %v", err)
	}
	for _, want := range []*record{someRecord(), {Version: recordVersion, Chain: digest.FromString("c")}} {
		check(t, want.write(dir))
		got, err := readRecord(dir)
		check(t, err)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("read %+v, want %+v", got, want)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("%v is left, %v", left, err)
	}
	for what, change := range map[string]func(*record){
		"no chain":           func(r *record) { r.Chain = "" },
		"chain that is path": func(r *record) { r.Chain = "sha256:../../../../x" },
		"sha512":             func(r *record) { r.Chain = digest.SHA512.FromString("x") },
		"disk without store": func(r *record) { r.Disk.Store = "" },
		"disk without name":  func(r *record) { r.Disk.Digest = "" },
		"manifest alone":     func(r *record) { r.Reference = "" },
		"negative usage":     func(r *record) { r.Usage.Size = -1 },
		"too long":           func(r *record) { r.Reference = strings.Repeat("x", maxRecord) },
	} {
		r := someRecord()
		change(r)
		if err := r.write(dir); err == nil {
			t.Errorf("%s: written", what)
		}
	}
	check(t, os.WriteFile(filepath.Join(dir, recordFile), bytes.Repeat([]byte(" "), maxRecord+1), 0o600))
	if _, err := readRecord(dir); err == nil {
		t.Error("read what is too long")
	}
}

func FuzzRecord(f *testing.F) {
	b, err := someRecord().encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"version":1,"chain":"sha256:00"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRecord(b)
		if err != nil || len(b) > maxRecord/8 { // what is escaped may take more
			return
		}
		again, err := r.encode()
		check(t, err)
		back, err := parseRecord(again)
		check(t, err)
		if !reflect.DeepEqual(back, r) {
			t.Errorf("%s became %s", b, again)
		}
	})
}

func TestLocks(t *testing.T) {
	var l locks
	unlock, err := l.lock(t.Context(), "a")
	check(t, err)
	other, err := l.lock(t.Context(), "b")
	check(t, err)
	other()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.lock(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("a lock that somebody has: %v", err)
	}
	const n = 50
	held, done := 0, make(chan error)
	for range n {
		go func() {
			unlock, err := l.lock(context.Background(), "a")
			if err == nil {
				held++ // the race detector looks
				unlock()
			}
			done <- err
		}()
	}
	unlock()
	for range n {
		check(t, <-done)
	}
	if held != n || len(l.held) != 0 {
		t.Errorf("held %d times, %d locks are left", held, len(l.held))
	}
}
