package registry

import (
	"bytes"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store/registry/registrytest"
)

// longest answers ranges of blobs as RFC 9110 has it, which the registry behind it does not, and notes the longest answer.
type longest struct {
	http.Handler
	bytes atomic.Int64
}

func (l *longest) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
		l.Handler.ServeHTTP(w, r)
		return
	}
	whole, rec := httptest.NewRecorder(), httptest.NewRecorder()
	all := r.Clone(r.Context())
	all.Header.Del("Range")
	l.Handler.ServeHTTP(whole, all)
	http.ServeContent(rec, r, "", time.Time{}, bytes.NewReader(whole.Body.Bytes()))
	for {
		if was := l.bytes.Load(); was >= int64(rec.Body.Len()) || l.bytes.CompareAndSwap(was, int64(rec.Body.Len())) {
			break
		}
	}
	for key, values := range rec.Header() {
		w.Header()[key] = values
	}
	w.WriteHeader(rec.Code)
	_, _ = w.Write(rec.Body.Bytes()) // the client may be gone
}

// TestPieces reads objects of many sizes over several connections, also of registries that do not
// give the pieces that they are asked for.
func TestPieces(t *testing.T) {
	var f *registrytest.Faults
	var l *longest
	host := registrytest.Memory(t, true, func(h http.Handler) http.Handler {
		l = &longest{Handler: h}
		f = &registrytest.Faults{Handler: l}
		return f
	})
	open := func(spare int) *Store {
		o, err := Open(t.Context(), host+"/pieces", Options{Insecure: true, Spare: spare})
		if err != nil {
			t.Fatal(err)
		}
		return o.Generation(1).(*Store)
	}
	writer := open(0)
	put := func(size int) ([]byte, origin.Digest) {
		data := make([]byte, size)
		rng := rand.NewChaCha8([32]byte{byte(size), 1})
		_, _ = rng.Read(data)
		d, err := writer.PutObject(t.Context(), data)
		if err != nil {
			t.Fatal(err)
		}
		return data, d
	}
	read := func(what string, data []byte, d origin.Digest) {
		got, err := open(4).GetObject(t.Context(), d, 2<<20)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes, want %d: %v", what, len(got), len(data), err)
		}
	}
	for size, longest := range map[int]int64{
		0: 0, 1: 1, pieceBytes: pieceBytes, pieceBytes + 1: pieceBytes, pieces * pieceBytes: pieceBytes,
		pieces*pieceBytes + 1: pieceBytes, 2 * pieces * pieceBytes: pieceBytes, 1 << 20: 1 << 18,
	} {
		data, d := put(size)
		l.bytes.Store(0)
		read("well", data, d)
		if n := l.bytes.Load(); n > max(longest, 100) { // or that there is no such piece
			t.Errorf("of %d bytes one answer has %d, want at most %d", size, n, longest)
		}
		if size == 0 {
			continue
		}
		if _, err := open(4).GetObject(t.Context(), d, int64(size)-1); err == nil {
			t.Errorf("%d bytes, and fewer were allowed", size)
		}
	}
	data, d := put(2*pieces*pieceBytes + 1)
	for what, fault := range map[string]*atomic.Bool{"no ranges": &f.NoRanges, "wrong ranges": &f.WrongRange, "too long": &f.Grow} {
		fault.Store(true)
		read(what, data, d)
		fault.Store(false)
	}
}
