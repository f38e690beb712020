package source

import (
	"context"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// TestKeep reads layers of a registry twice, of which the first reading is kept: the registry is
// asked once, and what is kept is checked.
func TestKeep(t *testing.T) {
	var blobs atomic.Int64
	host := serve(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
				blobs.Add(1)
			}
			h.ServeHTTP(w, r)
		})
	})
	push(t, host+"/app", mixed(t, "amd64"))
	ctx := context.Background()
	img, err := Open(ctx, []string{host + "/app"}, Options{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}})
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range img.Layers {
		file := spoolFile(t)
		l.Keep(file)
		blobs.Store(0)
		for range 3 {
			if _, err := l.Read(ctx, spoolFile(t)); err != nil {
				t.Fatal(err)
			}
		}
		if n := blobs.Load(); n != 1 {
			t.Errorf("layer %d was asked for %d times", i, n)
		}
		if _, err := file.WriteAt([]byte("damaged"), 0); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Read(ctx, spoolFile(t)); err == nil {
			t.Errorf("layer %d: a copy that is damaged: no error", i)
		}
	}
	// Without room for a copy, it is asked for again.
	img, err = Open(ctx, []string{host + "/app"}, Options{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}})
	if err != nil {
		t.Fatal(err)
	}
	full := spoolFile(t)
	if err := full.Close(); err != nil {
		t.Fatal(err)
	}
	img.Layers[0].Keep(full)
	for range 2 {
		if _, err := img.Layers[0].Read(ctx, spoolFile(t)); err != nil {
			t.Error(err)
		}
	}
}

// A smallFile has room for so many bytes, and no more.
type smallFile struct {
	*os.File
	room int64
}

func (f *smallFile) WriteAt(p []byte, off int64) (int, error) {
	n := min(int64(len(p)), max(f.room-off, 0))
	if _, err := f.File.WriteAt(p[:n], off); err != nil {
		return 0, err
	}
	if n < int64(len(p)) {
		return int(n), syscall.ENOSPC
	}
	return int(n), nil
}

// TestKeepFailed wants a copy that is not whole to take no room: that there is no room for it, or that
// its layer is not read to the end.
func TestKeepFailed(t *testing.T) {
	host := serve(t, func(h http.Handler) http.Handler { return h })
	push(t, host+"/app", mixed(t, "amd64"))
	img, err := Open(t.Context(), []string{host + "/app"}, Options{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}})
	if err != nil {
		t.Fatal(err)
	}
	l := img.Layers[0]
	small := &smallFile{spoolFile(t), l.Size - 1}
	taken := func() int64 {
		t.Helper()
		info, err := small.Stat()
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	l.Keep(small)
	if _, err := l.Read(t.Context(), spoolFile(t)); err != nil || taken() != 0 {
		t.Errorf("without room: %v, the copy takes %d bytes", err, taken())
	}
	small.room = l.Size
	body, err := l.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(body, make([]byte, 1)); err != nil || taken() == 0 {
		t.Errorf("reading: %v, the copy takes %d bytes", err, taken())
	}
	if err := body.Close(); err != nil || taken() != 0 {
		t.Errorf("given up: %v, the copy takes %d bytes", err, taken())
	}
	if _, err := l.Read(t.Context(), spoolFile(t)); err != nil || taken() != l.Size {
		t.Errorf("read whole: %v, the copy takes %d bytes of %d", err, taken(), l.Size)
	}
}
