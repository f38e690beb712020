package cached_test

import (
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/cached/cachedtest"
	"github.com/rivuletfs/rivulet/cached/internal/wire"
)

// openFiles counts the descriptors of this process.
func openFiles(t testing.TB) int {
	t.Helper()
	for _, dir := range []string{"/proc/self/fd", "/dev/fd"} {
		if list, err := os.ReadDir(dir); err == nil {
			return len(list)
		}
	}
	t.Skip("cannot count descriptors")
	return 0
}

// eventually waits until ok, for at most 10 s.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

// TestDescriptorsSent has clients send descriptors, which no request has, and
// break the protocol. The daemon keeps none.
func TestDescriptorsSent(t *testing.T) {
	d := cachedtest.Start(t, nil)
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	fd := int(file.Fd())
	hello := append(wire.Header{Type: wire.Hello, Len: 20}.Append(nil), wire.Greeting{Version: wire.Version}.Append(nil)...)
	bad := append(wire.Header{Type: wire.Renew, Len: 3}.Append(nil), 1, 2, 3)
	before := openFiles(t)
	for range 8 {
		k := connect(t, d.Socket)
		if _, _, err := k.wire.Socket().WriteMsgUnix(append(hello, bad...), syscall.UnixRights(fd, fd, fd, fd), nil); err != nil {
			t.Fatal(err)
		}
		_ = k.wire.Socket().SetReadDeadline(time.Now().Add(10 * time.Second))
		for err == nil {
			_, err = k.wire.Read()
		}
		_ = k.wire.Close()
	}
	eventually(t, "descriptors are closed", func() bool { return openFiles(t) <= before })
}
