package faultproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var content = bytes.Repeat([]byte("what is sent "), 10_000)

// serve starts a server that sends content, or what it is sent, and counts.
func serve(t *testing.T) (addr string, done *atomic.Int64) {
	done = new(atomic.Int64)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		done.Add(1)
		if r.Method == http.MethodPut {
			_, _ = w.Write(b)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://"), done
}

func start(t *testing.T, target string, f Faults) *Server {
	t.Helper()
	s, err := NewServer(target, f, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// client makes requests of which each has its own connection, or shares one.
func client(t *testing.T, reuse bool) *http.Client {
	tr := &http.Transport{DisableKeepAlives: !reuse}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// get returns status and body, or how far they came.
func get(ctx context.Context, c *http.Client, addr string) (resp *http.Response, body []byte, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/x", nil)
	if err != nil {
		return nil, nil, err
	}
	resp, err = c.Do(r)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	return resp, body, err
}

func TestKinds(t *testing.T) {
	differ := func(body []byte) (n int) {
		for i := range body {
			n += bits.OnesCount8(body[i] ^ content[i])
		}
		return n
	}
	for kind, check := range map[Kind]func(resp *http.Response, body []byte, err error) bool{
		"": func(resp *http.Response, body []byte, err error) bool {
			return err == nil && bytes.Equal(body, content)
		},
		Unavailable: func(resp *http.Response, _ []byte, err error) bool { return err == nil && resp.StatusCode == 503 },
		TooMany: func(resp *http.Response, _ []byte, err error) bool {
			return err == nil && resp.StatusCode == 429 && resp.Header.Get("Retry-After") == "7"
		},
		Reset:      func(resp *http.Response, _ []byte, err error) bool { return err != nil && resp == nil },
		LostAnswer: func(resp *http.Response, _ []byte, err error) bool { return err != nil && resp == nil },
		Hang:       func(_ *http.Response, _ []byte, err error) bool { return errors.Is(err, context.DeadlineExceeded) },
		Truncate: func(resp *http.Response, body []byte, err error) bool {
			return err != nil && len(body) < len(content) && resp.ContentLength == int64(len(content))
		},
		Short: func(resp *http.Response, body []byte, err error) bool {
			return err == nil && len(body) < len(content) && resp.ContentLength == int64(len(body))
		},
		Flip: func(_ *http.Response, body []byte, err error) bool {
			return err == nil && len(body) == len(content) && differ(body) == 1
		},
		Drip:      func(_ *http.Response, body []byte, err error) bool { return err == nil && bytes.Equal(body, content) },
		HalfClose: func(_ *http.Response, body []byte, err error) bool { return err == nil && bytes.Equal(body, content) },
	} {
		t.Run(string(kind), func(t *testing.T) {
			target, done := serve(t)
			s := start(t, target, nil)
			f := Faults{}
			if kind != "" {
				f[kind] = 1
			}
			if err := s.Set(f, 7*time.Second); err != nil {
				t.Fatal(err)
			}
			limit := 10 * time.Second
			if kind == Hang {
				limit = 500 * time.Millisecond // in which the request arrives
			}
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			resp, body, err := get(ctx, client(t, false), s.Addr())
			if !check(resp, body, err) {
				t.Errorf("%v, %d bytes, %v", resp, len(body), err)
			}
			want := int64(1)
			if kind == Unavailable || kind == TooMany || kind == Reset || kind == Hang {
				want = 0
			}
			if done.Load() != want {
				t.Errorf("the server has done %d requests, want %d", done.Load(), want)
			}
			if all, counts := s.Requests(); all != 1 || kind != "" && counts[kind] != 1 {
				t.Errorf("counted %d, %v", all, counts)
			}
		})
	}
}

func TestForwards(t *testing.T) {
	target, _ := serve(t)
	s := start(t, target, nil)
	c := client(t, true)
	for range 3 {
		r, _ := http.NewRequest(http.MethodPut, "http://"+s.Addr()+"/x", strings.NewReader("body"))
		resp, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(b) != "body" {
			t.Errorf("%q, %v", b, err)
		}
	}
	r, _ := http.NewRequest(http.MethodGet, "http://"+s.Addr()+"/x", nil)
	r.Header.Set("Range", "bytes=5-8")
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); resp.StatusCode != 206 || string(b) != "is s" {
		t.Errorf("range: %d %q", resp.StatusCode, b)
	}
}

// TestSeed makes the same requests twice, and again with another seed.
func TestSeed(t *testing.T) {
	f := Faults{Flip: 0.2, Unavailable: 0.3}
	run := func(seed uint64) string {
		var b strings.Builder
		for n := range uint64(200) {
			chance, _ := roll(seed, n)
			fmt.Fprintf(&b, "%s ", f.pick(chance))
		}
		return b.String()
	}
	first := run(1)
	if first != run(1) || first == run(2) {
		t.Error("what happens does not depend on the seed alone")
	}
	if n := strings.Count(first, "flip"); n < 20 || n > 60 {
		t.Errorf("%d of 200 are flipped, want about 40", n)
	}
	if n := strings.Count(first, "503"); n < 40 || n > 80 {
		t.Errorf("%d of 200 are refused, want about 60", n)
	}
}

func TestCheck(t *testing.T) {
	f := Faults{}
	for _, bad := range []string{"", "flip", "flip=x", "flip=2", "flip=-1", "flip=NaN", "other=0.1"} {
		if f.Set(bad) == nil {
			t.Errorf("%q is taken", bad)
		}
		clear(f)
	}
	if err := f.Set("flip=0.5"); err != nil {
		t.Error(err)
	}
	if f.Set("reset=0.6") == nil {
		t.Error("chances of 1.1 are taken")
	}
	if _, err := NewServer("127.0.0.1:1", f, 1); err == nil {
		t.Error("a server takes them")
	}
}

// TestLink measures a round trip, and the time that bytes take.
func TestLink(t *testing.T) {
	target, _ := serve(t)
	const latency = 100 * time.Millisecond
	l, err := NewLink(target, latency, int64(4*len(content)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := client(t, true)
	for i, least := range []time.Duration{2*latency + 250*time.Millisecond, latency + 250*time.Millisecond} {
		begin := time.Now()
		_, body, err := get(context.Background(), c, l.Addr())
		if took := time.Since(begin); err != nil || !bytes.Equal(body, content) || took < least {
			t.Errorf("request %d: %d bytes, %v, after %v; want %v at least", i, len(body), err, took, least)
		}
	}
}

// TestLinkPasses checks that ends and resets pass.
func TestLinkPasses(t *testing.T) {
	target, _ := serve(t)
	s := start(t, target, Faults{LostAnswer: 1})
	l, err := NewLink(s.Addr(), time.Millisecond, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, _, err := get(context.Background(), client(t, false), l.Addr()); err == nil {
		t.Error("a reset does not pass")
	}
	nobody, err := NewLink("127.0.0.1:1", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer nobody.Close()
	c, err := net.Dial("tcp", nobody.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a link to nobody sends something")
	}
}

// TestSingle damages one answer, which is counted from when it is said.
func TestSingle(t *testing.T) {
	addr, _ := serve(t)
	s := start(t, addr, nil)
	c := client(t, true)
	for range 2 {
		if _, body, err := get(context.Background(), c, s.Addr()); err != nil || !bytes.Equal(body, content) {
			t.Fatalf("undamaged: %d bytes, %v", len(body), err)
		}
	}
	s.Single(2, Flip, 8*5+1)
	for i := range 3 {
		_, body, err := get(context.Background(), c, s.Addr())
		if err != nil || len(body) != len(content) {
			t.Fatalf("%d bytes, %v", len(body), err)
		}
		if i == 1 {
			body[5] ^= 2
		}
		if !bytes.Equal(body, content) {
			t.Errorf("answer %d has other bytes", i+1)
		}
	}
}

// TestObserve tells of every request, in order, at an address of choice.
func TestObserve(t *testing.T) {
	addr, _ := serve(t)
	s, err := ListenServer("127.0.0.1:0", addr, nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var seen []Request
	s.Observe(func(r Request) { seen = append(seen, r) })
	s.Single(2, Flip, 0)
	c := client(t, true)
	for _, method := range []string{http.MethodHead, http.MethodGet} {
		r, _ := http.NewRequest(method, "http://"+s.Addr()+"/a%20b?secret", nil)
		resp, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	s.Observe(nil)
	if _, _, err := get(context.Background(), c, s.Addr()); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 2 || seen[0].Method != http.MethodHead || seen[1].Method != http.MethodGet || seen[1].Path != "/a%20b" || seen[1].Fault != Flip || seen[1].Client != "127.0.0.1" || seen[1].At.Before(seen[0].At) {
		t.Errorf("%+v", seen)
	}
}
