package download

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/origin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var ctx = context.Background()

const secret = "Bearer nobody-may-see-this"

// pack is a chunk with other bytes around it.
type pack struct {
	o      chunktest.Object
	all    []byte
	offset int64
}

func newPack() *pack {
	p := &pack{o: chunktest.Random(1, chunk.Size, chunk.FrameSize), offset: 1000}
	p.all = append(bytes.Repeat([]byte{7}, int(p.offset)), p.o.Bytes...)
	p.all = append(p.all, bytes.Repeat([]byte{8}, 5000)...)
	return p
}

// serve answers as RFC 9110 wants: /chunk is the chunk, /pack the pack.
func (p *pack) serve(w http.ResponseWriter, r *http.Request) {
	b := p.all
	if r.URL.Path == "/chunk" {
		b = p.o.Bytes
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
}

// client returns a client, closed with the test.
func client(t *testing.T, o Options) *Client {
	t.Helper()
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	c.policy.First = time.Millisecond
	t.Cleanup(c.Close)
	return c
}

// get sends a request and returns what came.
func get(c *Client, r origin.Request) ([]byte, error) {
	var b bytes.Buffer
	begun := 0
	err := c.Get(ctx, r, func(size int64) (io.Writer, error) {
		if begun++; begun > 1 {
			return nil, errors.New("begun twice")
		}
		if size < 1 || size > chunk.MaxStoredSize {
			return nil, fmt.Errorf("size %d", size)
		}
		return &b, nil
	})
	return b.Bytes(), err
}

// TestGet reads the chunk, and the chunk in the pack, through servers that do
// what servers do.
func TestGet(t *testing.T) {
	p := newPack()
	for name, middle := range map[string]func(n int, w http.ResponseWriter, r *http.Request) bool{
		"well": func(int, http.ResponseWriter, *http.Request) bool { return false },
		"ignores ranges": func(_ int, _ http.ResponseWriter, r *http.Request) bool {
			r.Header.Del("Range")
			return false
		},
		"busy at first": func(n int, w http.ResponseWriter, _ *http.Request) bool {
			if n == 1 {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			return n == 1
		},
		"cuts the first two": func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n <= 2 {
				panic(cut(p, w, r, n*100_000))
			}
			return false
		},
		"sends on": func(_ int, w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Query().Get("at") == "" {
				http.Redirect(w, r, r.URL.Path+"?at=there", http.StatusTemporaryRedirect)
				return true
			}
			return false
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := 0
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") != secret {
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				if n++; !middle(n, w, r) {
					p.serve(w, r)
				}
			}))
			defer s.Close()
			header := http.Header{"authorization": {secret}}
			for _, r := range []origin.Request{
				{URL: s.URL + "/chunk", Header: header},
				{URL: s.URL + "/chunk", Header: header, Length: int64(len(p.o.Bytes))},
				{URL: s.URL + "/pack", Header: header, Offset: p.offset, Length: int64(len(p.o.Bytes))},
			} {
				n = 0
				if b, err := get(client(t, Options{}), r); err != nil || !bytes.Equal(b, p.o.Bytes) {
					t.Errorf("%v: %d bytes, %v", r, len(b), err)
				}
			}
		})
	}
}

// cut sends a part of what was asked for, and breaks the connection.
func cut(p *pack, w http.ResponseWriter, r *http.Request, n int) error {
	rec := httptest.NewRecorder()
	p.serve(rec, r)
	for k, v := range rec.Header() {
		w.Header()[k] = v
	}
	w.WriteHeader(rec.Code)
	_, _ = w.Write(rec.Body.Bytes()[:min(n, rec.Body.Len())])
	_ = http.NewResponseController(w).Flush()
	return http.ErrAbortHandler
}

// TestResume asks for what is missing alone when a connection breaks.
func TestResume(t *testing.T) {
	p := newPack()
	var ranges []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ranges = append(ranges, r.Header.Get("Range")); len(ranges) == 1 {
			panic(cut(p, w, r, 200_000))
		}
		p.serve(w, r)
	}))
	defer s.Close()
	if b, err := get(client(t, Options{}), origin.Request{URL: s.URL + "/chunk"}); err != nil || !bytes.Equal(b, p.o.Bytes) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	want := fmt.Sprintf("bytes=200000-%d", len(p.o.Bytes)-1)
	if len(ranges) != 2 || ranges[0] != "" || ranges[1] != want {
		t.Errorf("ranges %q, want none and %s", ranges, want)
	}
}

// TestRefused gets errors for answers that are none, with neither the address nor
// the token in them.
func TestRefused(t *testing.T) {
	p := newPack()
	status := func(n int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(n) }
	}
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		want    error // nil: any
	}{
		"not there":      {status(http.StatusNotFound), chunk.ErrNotFound},
		"gone":           {status(http.StatusGone), chunk.ErrNotFound},
		"expired":        {status(http.StatusForbidden), ErrDenied},
		"unknown":        {status(http.StatusUnauthorized), ErrDenied},
		"teapot":         {status(http.StatusTeapot), nil},
		"always busy":    {status(http.StatusServiceUnavailable), nil},
		"an empty thing": {status(http.StatusOK), nil},
		"no length": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(p.o.Bytes)
			_ = http.NewResponseController(w).Flush()
		}, nil},
		"too long": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(chunk.MaxStoredSize+1))
		}, nil},
		"encoded": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(p.o.Bytes[:100])
		}, nil},
		"another range": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", "bytes 5-9/1000")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(p.o.Bytes[:5])
		}, nil},
		"round and round": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusFound)
		}, ErrRequest},
		"to a file": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "file:///etc/passwd")
			w.WriteHeader(http.StatusFound)
		}, ErrRequest},
		"to https": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "https://localhost/")
			w.WriteHeader(http.StatusFound)
		}, ErrRequest},
		"to no address": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://host:port/?signature="+secret)
			w.WriteHeader(http.StatusFound)
		}, ErrRequest},
		"to a forbidden host": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://metadata.internal/")
			w.WriteHeader(http.StatusFound)
		}, ErrRequest},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(c.handler)
			defer s.Close()
			cl := client(t, Options{Allow: func(host string) bool { return host == "127.0.0.1" }})
			_, err := get(cl, origin.Request{URL: s.URL + "/chunk?signature=x", Header: http.Header{"Authorization": {secret}}})
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Fatalf("%v, want %v", err, c.want)
			}
			if text := err.Error(); strings.Contains(text, secret) || strings.Contains(text, "signature") || strings.Contains(text, s.URL) {
				t.Errorf("the error shows too much: %v", err)
			}
		})
	}
}

// TestNotSent checks requests that are not sent at all.
func TestNotSent(t *testing.T) {
	c := client(t, Options{Allow: func(host string) bool { return host == "good" }})
	for _, r := range []origin.Request{
		{URL: "ftp://good/"}, {URL: "http://"}, {URL: "good/x"}, {URL: "http://u@good/"}, {URL: "http://bad/"}, {URL: "http://good:80@bad/"}, {URL: "%"},
		{URL: "http://good/", Header: http.Header{"Host": {"x"}}}, {URL: "http://good/", Header: http.Header{"range": {"x"}}},
		{URL: "http://good/", Offset: -1}, {URL: "http://good/", Length: -1}, {URL: "http://good/", Length: chunk.MaxStoredSize + 1},
	} {
		if _, err := get(c, r); !errors.Is(err, ErrRequest) {
			t.Errorf("%s: %v", r.URL, err)
		}
	}
	if err := c.Check(&origin.Request{URL: "https://good:444/x?y", Header: http.Header{"Authorization": {"x"}}, Offset: 5, Length: 6}); err != nil {
		t.Error(err)
	}
}

// TestTokenStays does not tell another host what the first was told.
func TestTokenStays(t *testing.T) {
	p := newPack()
	told := make(chan string, 1)
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		told <- r.Header.Get("Authorization") + r.Header.Get("Referer")
		p.serve(w, r)
	}))
	defer other.Close()
	elsewhere := strings.Replace(other.URL, "127.0.0.1", "localhost", 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere+r.URL.Path, http.StatusFound)
	}))
	defer s.Close()
	b, err := get(client(t, Options{}), origin.Request{URL: s.URL + "/chunk?signature=x", Header: http.Header{"Authorization": {secret}}})
	if err != nil || !bytes.Equal(b, p.o.Bytes) {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	if got := <-told; got != "" {
		t.Errorf("another host was told %q", got)
	}
}

// failing is a writer that takes n bytes.
type failing struct{ left int }

var errFull = errors.New("full")

func (f *failing) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}

// TestSinkFails ends a download when nobody takes it, and tries no more.
func TestSinkFails(t *testing.T) {
	p, asked := newPack(), 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { asked++; p.serve(w, r) }))
	defer s.Close()
	c := client(t, Options{})
	err := c.Get(ctx, origin.Request{URL: s.URL + "/chunk"}, func(int64) (io.Writer, error) { return &failing{100_000}, nil })
	if !errors.Is(err, errFull) || asked != 1 {
		t.Errorf("%v after %d requests", err, asked)
	}
	err = c.Get(ctx, origin.Request{URL: s.URL + "/chunk"}, func(int64) (io.Writer, error) { return nil, errFull })
	if !errors.Is(err, errFull) || asked != 2 {
		t.Errorf("%v after %d requests", err, asked)
	}
}

// TestHungServer ends with the context, and with the stall.
func TestHungServer(t *testing.T) {
	gate := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-gate:
		case <-r.Context().Done():
		}
	}))
	defer s.Close()
	defer close(gate)
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	begin := func(int64) (io.Writer, error) { return io.Discard, nil }
	if err := client(t, Options{}).Get(short, origin.Request{URL: s.URL}, begin); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with a context that ends: %v", err)
	}
	if err := client(t, Options{Stall: 50 * time.Millisecond}).Get(ctx, origin.Request{URL: s.URL}, begin); err == nil {
		t.Error("nothing moves, and no error")
	}
}
