package registry

import (
	"bytes"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store/registry/registrytest"
)

// ranges answers ranges of blobs as RFC 9110 has it, which the registry behind it does not, and notes the longest answer.
type ranges struct {
	http.Handler
	bytes   atomic.Int64
	forge   atomic.Bool // a bit of a part is another
	unsized atomic.Bool // parts do not tell of how many bytes they are
	near    atomic.Bool // all is sent for what is not in the first span
}

func (l *ranges) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
		l.Handler.ServeHTTP(w, r)
		return
	}
	whole, rec := httptest.NewRecorder(), httptest.NewRecorder()
	all := r.Clone(r.Context())
	all.Header.Del("Range")
	l.Handler.ServeHTTP(whole, all)
	if from, _, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("Range"), "bytes="), "-"); l.near.Load() {
		if n, err := strconv.Atoi(from); err == nil && n >= pieces*pieceBytes {
			r = all
		}
	}
	http.ServeContent(rec, r, "", time.Time{}, bytes.NewReader(whole.Body.Bytes()))
	for {
		if was := l.bytes.Load(); was >= int64(rec.Body.Len()) || l.bytes.CompareAndSwap(was, int64(rec.Body.Len())) {
			break
		}
	}
	if rec.Code == http.StatusPartialContent {
		if l.forge.Load() {
			rec.Body.Bytes()[0] ^= 1
		}
		if l.unsized.Load() {
			span, _, _ := strings.Cut(rec.Header().Get("Content-Range"), "/")
			rec.Header().Set("Content-Range", span+"/*")
		}
	}
	for key, values := range rec.Header() {
		w.Header()[key] = values
	}
	w.WriteHeader(rec.Code)
	_, _ = w.Write(rec.Body.Bytes()) // the client may be gone
}

// pieced is a registry whose objects are read in pieces.
type pieced struct {
	t      *testing.T
	faults *registrytest.Faults
	ranges *ranges
	host   string
}

func newPieced(t *testing.T) *pieced {
	p := &pieced{t: t}
	p.host = registrytest.Memory(t, true, func(h http.Handler) http.Handler {
		p.ranges = &ranges{Handler: h}
		p.faults = &registrytest.Faults{Handler: p.ranges}
		return p.faults
	})
	return p
}

func (p *pieced) open(opts Options) *Store {
	p.t.Helper()
	opts.Insecure = true
	return openRepo(p.t, p.host+"/pieces", opts).generation(1)
}

func (p *pieced) put(size int) ([]byte, origin.Digest) {
	p.t.Helper()
	data := make([]byte, size)
	rng := rand.NewChaCha8([32]byte{byte(size), 1})
	_, _ = rng.Read(data)
	d, err := p.open(Options{}).PutObject(p.t.Context(), data)
	if err != nil {
		p.t.Fatal(err)
	}
	return data, d
}

const spare = pieces - 1

// TestPieces reads objects of many sizes over several connections.
func TestPieces(t *testing.T) {
	p := newPieced(t)
	for size, longest := range map[int]int64{
		0: 0, 1: 1, pieceBytes: pieceBytes, pieceBytes + 1: pieceBytes, pieces * pieceBytes: pieceBytes,
		pieces*pieceBytes + 1: pieceBytes, 2 * pieces * pieceBytes: pieceBytes, 1 << 20: 1 << 18,
	} {
		data, d := p.put(size)
		p.ranges.bytes.Store(0)
		got, err := p.open(Options{Spare: spare}).client.readUnsized(t.Context(), d, 2<<20)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes, want %d: %v", len(got), len(data), err)
		}
		if n := p.ranges.bytes.Load(); n > max(longest, 100) { // or that there is no such piece
			t.Errorf("of %d bytes one answer has %d, want at most %d", size, n, longest)
		}
		if size == 0 {
			continue
		}
		if b, err := p.open(Options{Spare: spare}).client.readUnsized(t.Context(), d, int64(size)-1); err == nil || b != nil {
			t.Errorf("%d bytes, and fewer were allowed", size)
		}
	}
}

// TestBadPieces reads of registries that do not give the pieces that they are asked for. What they give is no object;
// and where it is known for what they give whole blobs, they are asked for these.
func TestBadPieces(t *testing.T) {
	p := newPieced(t)
	data, d := p.put(2*pieces*pieceBytes + 1)
	for _, tt := range []struct {
		name     string
		fault    *atomic.Bool
		requests int // of three reads, at most
		good     bool
		err      string
	}{
		{"none", new(atomic.Bool), 3 * 2 * pieces, true, ""},
		{"no ranges", &p.faults.NoRanges, pieces + 3, true, ""},
		{"no ranges behind the first", &p.ranges.near, 2*pieces + 3, true, ""},
		{"wrong ranges", &p.faults.WrongRange, 3 * pieces, false, "unexpected answer"},
		{"too long", &p.faults.Grow, 3 * pieces, false, "more bytes"},
		{"forged", &p.ranges.forge, 3 * 2 * pieces, false, origin.ErrCorrupt.Error()},
		{"no total", &p.ranges.unsized, 3 * pieces, false, "does not say how many"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.fault.Store(true)
			defer tt.fault.Store(false)
			s := p.open(Options{Spare: spare})
			p.faults.Reset()
			for range 3 {
				b, err := s.client.readUnsized(t.Context(), d, 2<<20)
				if tt.good && (err != nil || !bytes.Equal(b, data)) {
					t.Errorf("%d bytes, %v; want %d", len(b), err, len(data))
				}
				if !tt.good && (b != nil || err == nil || !strings.Contains(err.Error(), tt.err)) {
					t.Errorf("%d bytes, %v; want %q", len(b), err, tt.err)
				}
			}
			if n := p.faults.Count(http.MethodGet, "/blobs/"); n > tt.requests {
				t.Errorf("%d requests, want at most %d", n, tt.requests)
			}
			got, err := p.open(Options{Spare: spare}).GetObject(t.Context(), d, 2<<20)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("the object: %d bytes, %v", len(got), err)
			}
		})
	}
}

// TestFewConnections: over fewer connections than there are pieces, an object is read by one request.
func TestFewConnections(t *testing.T) {
	p := newPieced(t)
	data, d := p.put(2 * pieceBytes)
	for _, tt := range []struct {
		spare, connections int
		pieced             bool
	}{{spare, 0, true}, {spare, pieces, true}, {spare - 1, 0, false}, {spare, pieces - 1, false}, {0, 0, false}} {
		s := p.open(Options{Spare: tt.spare, Connections: tt.connections})
		p.faults.Reset()
		if b, err := s.client.readUnsized(t.Context(), d, 2<<20); err != nil || !bytes.Equal(b, data) {
			t.Errorf("%d bytes, %v", len(b), err)
		}
		if n := p.faults.Count(http.MethodGet, "/blobs/"); (n > 1) != tt.pieced {
			t.Errorf("%d spare of %d: %d requests", tt.spare, tt.connections, n)
		}
	}
}
