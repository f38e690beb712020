package s3

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/store/s3/s3test"
)

// A fake is a server with the faults that a real one cannot be made to have. It
// knows no signatures, and lists nothing.
type fake struct {
	*httptest.Server
	noConditions bool                                                           // ignores If-Match and If-None-Match
	refuse       func(w http.ResponseWriter, r *http.Request, body []byte) bool // has answered, if true

	mu      sync.Mutex
	objects map[string][]byte      // by path
	headers map[string]http.Header // kept with them
	counts  map[string]int         // requests by method
}

func newFake(t *testing.T) *fake {
	f := &fake{objects: map[string][]byte{}, headers: map[string]http.Header{}, counts: map[string]int{}}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	(&s3test.Server{AccessKey: "AKIATEST", SecretKey: testSecret}).Login(t)
	return f
}

const testSecret = "very-secret-0123456789"

// config returns how to reach the fake.
func (f *fake) config() Config {
	u, err := url.Parse(f.URL)
	if err != nil {
		panic(err)
	}
	return Config{Bucket: "bucket", Endpoint: u}
}

func (f *fake) open(t *testing.T, change ...func(*Config)) *Origin {
	t.Helper()
	c := f.config()
	for _, ch := range change {
		ch(&c)
	}
	o, err := Open(ctx, c, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	return o
}

// count returns how many requests there were of a method since the last call.
func (f *fake) count(method string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.counts[method]
	f.counts[method] = 0
	return n
}

func answerError(w http.ResponseWriter, r *http.Request, status int, code, message, more string) bool {
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		fmt.Fprintf(w, "<Error><Code>%s</Code><Message>%s</Message>%s</Error>", code, message, more)
	}
	return true
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts[r.Method]++
	if f.refuse != nil && f.refuse(w, r, body) {
		return
	}
	old, there := f.objects[r.URL.Path]
	etag := func(b []byte) string { sum := md5.Sum(b); return `"` + hex.EncodeToString(sum[:]) + `"` }
	switch r.Method {
	case http.MethodPut:
		match := r.Header.Get("If-Match")
		switch {
		case f.noConditions:
		case match != "" && !there:
			answerError(w, r, 404, "NoSuchKey", "no", "")
			return
		case r.Header.Get("If-None-Match") == "*" && there, match != "" && match != etag(old):
			answerError(w, r, 412, "PreconditionFailed", "no", "")
			return
		}
		f.objects[r.URL.Path] = body
		kept := http.Header{"Etag": {etag(body)}}
		for name, v := range r.Header {
			if strings.HasPrefix(name, "X-Amz-Meta-") || strings.HasPrefix(name, "X-Amz-Checksum-") || name == "Cache-Control" {
				kept[name] = v
			}
		}
		f.headers[r.URL.Path] = kept
		w.Header().Set("ETag", etag(body))
	case http.MethodDelete:
		delete(f.objects, r.URL.Path)
		w.WriteHeader(http.StatusNoContent)
	case http.MethodGet, http.MethodHead:
		if r.URL.Query().Has("list-type") {
			fmt.Fprint(w, "<ListBucketResult></ListBucketResult>")
			return
		}
		if !there {
			answerError(w, r, 404, "NoSuchKey", "no", "")
			return
		}
		for name, v := range f.headers[r.URL.Path] {
			w.Header()[name] = v
		}
		http.ServeContent(w, r, "", time.Unix(1e9, 0), strings.NewReader(string(old)))
	}
}
