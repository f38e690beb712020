package main

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// ends returns the two ends of something that keeps packets apart, as a TUN device does.
func ends(t *testing.T) (a, b *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET, 0)
	if err != nil {
		t.Fatal(err)
	}
	a, b = os.NewFile(uintptr(fds[0]), "a"), os.NewFile(uintptr(fds[1]), "b")
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

// TestDelay sends packets through: they come late, in order, as they were.
func TestDelay(t *testing.T) {
	const delay = 20 * time.Millisecond
	from, in := ends(t)
	out, to := ends(t)
	queue := make(chan packet, maxQueued)
	ended := make(chan error, 2)
	go func() { ended <- take(in, queue, delay); close(queue) }()
	go func() { ended <- give(out, queue) }()
	sent := time.Now()
	for i := range 5 {
		if _, err := from.Write(append(make([]byte, virtioHeader), byte(i), 7)); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]byte, maxPacket)
	for i := range 5 {
		n, err := to.Read(got)
		if err != nil || n != virtioHeader+2 || got[virtioHeader] != byte(i) {
			t.Fatalf("packet %d: %d bytes %v, %v", i, n, got[:n], err)
		}
	}
	if took := time.Since(sent); took < delay {
		t.Errorf("packets took %v, want %v at least", took, delay)
	}
	if err := from.Close(); err != nil { // then take ends, and give after it
		t.Fatal(err)
	}
	for range 2 {
		t.Log("ended:", <-ended) // both have to, or this waits for ever
	}
}
