package registry

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/origin"
)

// TestSwapAfterRead: who swaps what was read just now is spared a second reading; not so when this
// process has changed the pointer since, or some time has passed.
func TestSwapAfterRead(t *testing.T) {
	f, host := faulty(t, true)
	o := hasty(t, host, Options{})
	other := reopen(t, o)
	ctx := context.Background()
	const name = "marks/x"
	// readAgo reads, and has it be so long ago: however long this test takes.
	readAgo := func(ago time.Duration, want string) []byte {
		t.Helper()
		value, err := o.GetPointer(ctx, name)
		if err != nil || string(value) != want {
			t.Fatalf("reads %q, %v; want %q", value, err, want)
		}
		last := o.client.locks.read(o.lockName(name))
		last.mu.Lock()
		defer last.mu.Unlock()
		last.last.at = time.Now().Add(-ago)
		return value
	}
	read := func(want string) []byte {
		t.Helper()
		return readAgo(-time.Hour, want)
	}
	swap := func(old []byte, value string, want error, gets int) {
		t.Helper()
		f.Reset()
		if err := o.SwapPointer(ctx, name, old, []byte(value)); !errors.Is(err, want) {
			t.Fatalf("swap for %q: %v, want %v", value, err, want)
		}
		if n := f.Count(http.MethodGet, "/manifests/"); n != gets {
			t.Errorf("swap for %q: read %d times, want %d", value, n, gets)
		}
	}
	swap(nil, "a", nil, 1) // nobody has read it
	swap(read("a"), "b", nil, 0)
	swap([]byte("a"), "c", origin.ErrConflict, 1)
	old := read("b")
	if err := other.SwapPointer(ctx, name, old, []byte("c")); err != nil {
		t.Fatal(err)
	}
	swap(old, "d", origin.ErrConflict, 1)
	old = readAgo(2*justNow, "c")
	swap(old, "d", nil, 1)
	swap(read("d"), "", nil, 0)
}

// TestEmptyIsKnown: where something of ours is, nobody asks for the blob that all artifacts have.
func TestEmptyIsKnown(t *testing.T) {
	f, host := faulty(t, true)
	o := hasty(t, host, Options{})
	ctx := context.Background()
	if err := o.SwapPointer(ctx, "x", nil, []byte("1")); err != nil {
		t.Fatal(err)
	}
	again := reopen(t, o)
	value, err := again.GetPointer(ctx, "x")
	if err != nil {
		t.Fatal(err)
	}
	f.Reset()
	if err := again.SwapPointer(ctx, "x", value, []byte("2")); err != nil {
		t.Fatal(err)
	}
	if n := f.Count(http.MethodHead, "/blobs/"); n != 0 {
		t.Errorf("asked for a blob %d times", n)
	}
}
