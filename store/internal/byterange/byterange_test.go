package byterange

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/store/internal/retry"
)

// answer makes an answer of "name: value" headers.
func answer(status int, body io.Reader, headers ...string) *Answer {
	a := &Answer{Status: status, Header: http.Header{}, Body: io.NopCloser(body)}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		a.Header.Set(name, value)
	}
	return a
}

var broken = iotest.ErrReader(io.ErrUnexpectedEOF)

func TestRead(t *testing.T) {
	text := func(s string) io.Reader { return strings.NewReader(s) }
	for name, c := range map[string]struct {
		a    *Answer
		want string // "" with again, final or missing: an error
		kind string
	}{
		"exact":                 {answer(206, text("2345"), "Content-Range: bytes 2-5/10", "Content-Length: 4"), "2345", ""},
		"total unknown":         {answer(206, text("2345"), "Content-Range: bytes 2-5/*"), "2345", ""},
		"ends there":            {answer(206, text("234"), "Content-Range: bytes 2-4/5"), "234", ""},
		"past the end":          {answer(416, text("no")), "", ""},
		"range ignored":         {answer(200, text("0123456789"), "Content-Length: 10"), "2345", ""},
		"ignored, ends":         {answer(200, text("0123"), "Content-Length: 4"), "23", ""},
		"ignored, shorter":      {answer(200, text("01"), "Content-Length: 2"), "", ""},
		"ignored, no length":    {answer(200, text("0123")), "23", ""},
		"ignored, none, short":  {answer(200, text("0")), "", ""},
		"ignored, none, long":   {answer(200, text("0123456789")), "2345", ""},
		"not there":             {answer(404, text("")), "", "missing"},
		"empty 200":             {answer(200, text(""), "Content-Length: 0"), "", ""},
		"short, total unknown":  {answer(206, text("234"), "Content-Range: bytes 2-4/*"), "", "again"},
		"short, more there":     {answer(206, text("234"), "Content-Range: bytes 2-4/10"), "", "again"},
		"too many":              {answer(206, text("23456"), "Content-Range: bytes 2-6/10"), "", "again"},
		"another begin":         {answer(206, text("0123"), "Content-Range: bytes 0-3/10"), "", "again"},
		"no Content-Range":      {answer(206, text("2345")), "", "again"},
		"bad Content-Range":     {answer(206, text("2345"), "Content-Range: bytes 2-x/10"), "", "again"},
		"backwards":             {answer(206, text("2345"), "Content-Range: bytes 2-1/10"), "", "again"},
		"total too small":       {answer(206, text("2345"), "Content-Range: bytes 2-5/5"), "", "again"},
		"overflow":              {answer(206, text("2345"), "Content-Range: bytes 2-9223372036854775807/*"), "", "again"},
		"truncated":             {answer(206, text("23"), "Content-Range: bytes 2-5/10"), "", "again"},
		"broken off":            {answer(206, io.MultiReader(text("23"), broken), "Content-Range: bytes 2-5/10"), "", "again"},
		"oversized":             {answer(206, text("23456"), "Content-Range: bytes 2-5/10"), "", "again"},
		"wrong length":          {answer(206, text("2345"), "Content-Range: bytes 2-5/10", "Content-Length: 5"), "", "again"},
		"ignored, truncated":    {answer(200, text("012"), "Content-Length: 10"), "", "again"},
		"ignored, none, broken": {answer(200, io.MultiReader(text("012"), broken)), "", "again"},
		"ignored, skip broken":  {answer(200, io.MultiReader(text("0"), broken)), "", "again"},
		"encoded":               {answer(206, text("2345"), "Content-Range: bytes 2-5/10", "Content-Encoding: gzip"), "", "final"},
		"another status":        {answer(204, text("")), "", "final"},
	} {
		t.Run(name, func(t *testing.T) {
			dst := []byte("....|")
			n, err := Read(c.a, dst[:4], 2)
			var again *retry.Failure
			kind := ""
			switch {
			case errors.As(err, &again):
				kind = "again"
			case errors.Is(err, chunk.ErrNotFound):
				kind = "missing"
			case err != nil:
				kind = "final"
			}
			if kind != c.kind || string(dst[:n]) != c.want || dst[4] != '|' {
				t.Errorf("%q, %v (%s); want %q (%s)", dst[:n], err, kind, c.want, c.kind)
			}
		})
	}
}

func TestReadSkipsNoMore(t *testing.T) {
	endless := iotest.OneByteReader(bytes.NewReader(nil))
	if n, err := Read(answer(200, endless), make([]byte, 4), maxSkip+1); err == nil || n != 0 {
		t.Errorf("%d, %v; want an error", n, err)
	}
}

func TestHeader(t *testing.T) {
	if got := Header(5, 10); got != "bytes=5-14" {
		t.Error(got)
	}
	if got := Header(math.MaxInt64, 10); got != fmt.Sprintf("bytes=%d-%[1]d", math.MaxInt64) {
		t.Error(got)
	}
}

// policy tries often and without pause.
func policy() *retry.Policy {
	return &retry.Policy{Budget: &retry.Budget{Burst: 1000, Share: 1}, Attempts: 50}
}

// TestWhole reads from a server that breaks connections off, with and without
// ETags, and changes the thing once.
func TestWhole(t *testing.T) {
	old, data := bytes.Repeat([]byte("old"), 70_000), make([]byte, 300_000)
	for i := range data {
		data[i] = byte(i * i >> 5)
	}
	for _, etag := range []string{"", `"v"`, `W/"v"`} {
		t.Run(etag, func(t *testing.T) {
			var sent, requests atomic.Int64 // the handlers of two requests may overlap
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				n := requests.Add(1)
				content, tag := data, etag
				if n < 3 {
					content, tag = old, strings.Replace(etag, "v", "old", 1)
				}
				if tag != "" {
					w.Header().Set("ETag", tag)
				}
				most := 100_000 // of a body
				if etag != `"v"` && n > 5 {
					most = len(content)
				}
				http.ServeContent(&cutWriter{ResponseWriter: w, left: most, sent: &sent}, r, "", time.Time{}, bytes.NewReader(content))
			}))
			defer server.Close()
			got, err := Whole(context.Background(), policy(), int64(len(data)), getter(server.URL))
			if err != nil || !bytes.Equal(got, data) {
				t.Fatalf("%d bytes, %v; want %d, or they differ", len(got), err, len(data))
			}
			if most := 2*100_000 + len(data); etag == `"v"` && sent.Load() > int64(most+100_000) {
				t.Errorf("%d bytes sent, want at most %d: what had arrived is asked for again", sent.Load(), most)
			}
		})
	}
}

// getter asks a server, as a store does.
func getter(url string) func(context.Context, int64, string) (*Answer, error) {
	return func(ctx context.Context, off int64, etag string) (*Answer, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return nil, err
		}
		if off > 0 {
			r.Header.Set("Range", fmt.Sprintf("bytes=%d-", off))
			r.Header.Set("If-Range", etag)
		}
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			return nil, retry.Again(err)
		}
		return &Answer{resp.StatusCode, resp.Header, resp.Body}, nil
	}
}

// A cutWriter breaks its connection off after so many bytes of body.
type cutWriter struct {
	http.ResponseWriter
	left int
	sent *atomic.Int64
}

func (w *cutWriter) Write(p []byte) (int, error) {
	n, _ := w.ResponseWriter.Write(p[:min(len(p), w.left)])
	w.left -= n
	w.sent.Add(int64(n))
	if n < len(p) {
		panic(http.ErrAbortHandler)
	}
	return n, nil
}

// TestWholeChanged has a server take no notice of If-Range, and change the thing
// between a part and the rest.
func TestWholeChanged(t *testing.T) {
	n := 0
	got, err := Whole(context.Background(), policy(), 10, func(_ context.Context, off int64, etag string) (*Answer, error) {
		switch n++; n {
		case 1:
			return answer(200, io.MultiReader(strings.NewReader("old"), broken), "Content-Length: 6", `ETag: "1"`), nil
		case 2:
			if off != 3 || etag != `"1"` {
				t.Errorf("asked from %d on of %s", off, etag)
			}
			return answer(206, strings.NewReader("new"), "Content-Range: bytes 3-5/6", `ETag: "2"`), nil
		}
		if off != 0 {
			t.Errorf("asked from %d on", off)
		}
		return answer(200, strings.NewReader("newnew"), "Content-Length: 6", `ETag: "2"`), nil
	})
	if err != nil || string(got) != "newnew" || n != 3 {
		t.Errorf("%q, %v after %d requests", got, err, n)
	}
}

func TestWholeRefuses(t *testing.T) {
	for name, a := range map[string]func() *Answer{
		"too long by its word": func() *Answer { return answer(200, strings.NewReader("x"), "Content-Length: 11") },
		"too long":             func() *Answer { return answer(200, strings.NewReader("0123456789x")) },
		"too short":            func() *Answer { return answer(200, strings.NewReader("01"), "Content-Length: 3") },
		"too long, said short": func() *Answer { return answer(200, strings.NewReader("0123"), "Content-Length: 3") },
		"unasked part":         func() *Answer { return answer(206, strings.NewReader("01"), "Content-Range: bytes 0-1/2") },
		"encoded":              func() *Answer { return answer(200, strings.NewReader("01"), "Content-Encoding: br") },
		"not there":            func() *Answer { return answer(404, strings.NewReader("")) },
	} {
		_, err := Whole(context.Background(), policy(), 10, func(context.Context, int64, string) (*Answer, error) { return a(), nil })
		if err == nil || errors.Is(err, chunk.ErrNotFound) != (name == "not there") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestChecked reads until the answer is good, as often as is allowed.
func TestChecked(t *testing.T) {
	errBad := errors.New("bad")
	for _, c := range []struct {
		bad, attempts int // answers, and what the policy allows
		reads         int
	}{{0, 6, 1}, {1, 6, 2}, {3, 6, 4}, {4, 6, 4}, {9, 6, 4}, {1, 2, 2}, {2, 2, 2}} {
		p, n := policy(), 0
		p.Attempts = c.attempts
		got, err := Checked(context.Background(), p, func(_ context.Context, again bool) ([]byte, error) {
			if again != (n > 0) {
				t.Errorf("read %d: again is %v", n, again)
			}
			n++
			if n <= c.bad {
				return []byte("bad"), nil
			}
			return []byte("good"), nil
		}, func(b []byte) error {
			if string(b) == "bad" {
				return errBad
			}
			return nil
		})
		if good := c.bad < c.reads; good && (err != nil || string(got) != "good") || !good && (got != nil || !errors.Is(err, errBad)) || n != c.reads {
			t.Errorf("%d bad of %d allowed: %q after %d reads, %v", c.bad, c.attempts, got, n, err)
		}
	}
	n := 0
	swapped := func(ctx context.Context, _ bool) ([]byte, error) {
		return Whole(ctx, policy(), 4, func(context.Context, int64, string) (*Answer, error) {
			n++
			return answer(200, strings.NewReader([]string{"", "too long", "good"}[n])), nil
		})
	}
	if b, err := Checked(context.Background(), policy(), swapped, func([]byte) error { return nil }); err != nil || string(b) != "good" {
		t.Errorf("after an answer that was too large: %q, %v", b, err)
	}
	read := func(context.Context, bool) ([]byte, error) { return nil, io.EOF }
	if _, err := Checked(context.Background(), policy(), read, func([]byte) error { return nil }); err != io.EOF {
		t.Errorf("%v; want read's error", err)
	}
}

func TestParseTotal(t *testing.T) {
	for value, want := range map[string]int64{"bytes 0-0/7": 7, "bytes */9": 9, "bytes 0-0/*": -1, "": -1, "bytes 3-4/4": -1, "bytes */x": -1} {
		got, ok := ParseTotal(value)
		if ok != (want >= 0) || ok && got != want {
			t.Errorf("%q: %d, %v; want %d", value, got, ok, want)
		}
	}
}

func FuzzRange(f *testing.F) {
	f.Add("bytes 0-0/1")
	f.Add("bytes 5-9223372036854775807/*")
	f.Fuzz(func(t *testing.T, value string) {
		first, last, total, ok := parse(value)
		if ok && (first < 0 || last < first || last == math.MaxInt64 || total != -1 && total <= last) {
			t.Fatalf("%q: %d to %d of %d", value, first, last, total)
		}
	})
}
