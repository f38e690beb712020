package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

func get(t *testing.T, o Options, url string) (*http.Response, error) {
	t.Helper()
	transport, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return transport.RoundTrip(r)
}

// TestStall is about peers from which nothing comes, before an answer and in
// the middle of it, and one that is slow but moves, for longer than may pass without a byte.
func TestStall(t *testing.T) {
	const stall, patience = 100 * time.Millisecond, 3 * time.Second
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // who connects waits for ever
	if _, err := get(t, Options{Stall: stall}, "http://"+l.Addr().String()); err == nil {
		t.Error("no answer, and no error")
	}
	for pause, stall := range map[time.Duration]time.Duration{patience / 20: patience, time.Hour: stall} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for range 25 {
				_, _ = w.Write([]byte("x"))
				_ = http.NewResponseController(w).Flush()
				select {
				case <-time.After(pause):
				case <-r.Context().Done():
					return
				}
			}
		}))
		resp, err := get(t, Options{Stall: stall}, server.URL)
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			_ = resp.Body.Close()
		}
		if (err == nil) != (stall == patience) {
			t.Errorf("pauses of %v: %v", pause, err)
		}
		server.Close()
	}
}

func TestNoHTTP2(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Proto) }))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	transport, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	transport.TLSClientConfig.RootCAs = server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); string(b) != "HTTP/1.1" {
		t.Errorf("spoke %s", b)
	}
}

func TestCheckURL(t *testing.T) {
	for address, good := range map[string][2]bool{ // without and with plain allowed
		"https://host":         {true, true},
		"https://host:1/path":  {true, true},
		"http://localhost":     {true, true},
		"http://x.localhost:1": {true, true},
		"http://127.3.2.1:80":  {true, true},
		"http://[::1]":         {true, true},
		"http://host":          {false, true},
		"http://10.0.0.1":      {false, true},
		"http://127.0.0.1.nip": {false, true},
		"https://u@host":       {},
		"https://u:p@host":     {},
		"ftp://host":           {},
		"https:host":           {},
		"https:///path":        {},
		"https://host?q":       {},
		"https://host#f":       {},
	} {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		for i, plain := range []bool{false, true} {
			if err := CheckURL(u, plain); (err == nil) != good[i] {
				t.Errorf("%s, plain %v: %v", address, plain, err)
			}
		}
	}
}

func TestParameters(t *testing.T) {
	var text string
	var yes bool
	var n int
	known := map[string]func(string) error{"text": Text(&text), "bool": Bool(&yes), "count": Count(&n)}
	if err := Parameters("text=a%26b&bool=true&count=12", known); err != nil || text != "a&b" || !yes || n != 12 {
		t.Errorf("%q, %v, %d, %v", text, yes, n, err)
	}
	for _, bad := range []string{"other=1", "text=", "text=a&text=b", "bool=1", "count=0", "count=x", "count=100000", "text=%zz", "a;b"} {
		if err := Parameters(bad, known); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	in := time.Now().Add(90 * time.Second).UTC().Format(http.TimeFormat)
	for value, want := range map[string]time.Duration{"": 0, "3": 3 * time.Second, "-1": 0, "x": 0, in: 89 * time.Second, "Mon, 02 Jan 2006 15:04:05 GMT": 0} {
		got := RetryAfter(http.Header{"Retry-After": {value}})
		if got < want || got > want+2*time.Second || want == 0 && got != 0 {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
}

func TestTransient(t *testing.T) {
	for status, want := range map[int]bool{200: false, 403: false, 404: false, 408: true, 429: true, 500: true, 501: false, 502: true, 503: true, 504: true} {
		if Transient(status) != want {
			t.Errorf("%d: want %v", status, want)
		}
	}
}

func TestLimit(t *testing.T) {
	for size, want := range map[int64]time.Duration{0: time.Minute, 32 << 20: time.Minute + 1024*time.Second} {
		ctx, cancel := Limit(context.Background(), size)
		deadline, ok := ctx.Deadline()
		if left := time.Until(deadline); !ok || left > want || left < want-10*time.Second {
			t.Errorf("%d bytes: %v, want %v", size, left, want)
		}
		cancel()
	}
}

func TestHint(t *testing.T) {
	dial := &net.OpError{Op: "dial", Err: errors.New("refused")}
	nowhere := &net.DNSError{IsNotFound: true}
	for _, c := range []struct {
		err       error
		want      string
		permanent bool
	}{
		{dial, "h cannot be reached", false},
		{fmt.Errorf("get: %w", nowhere), "there is no host h", true},
		{&net.DNSError{IsTemporary: true}, "h cannot be reached", false},
		{errors.New("http: server gave HTTP response to HTTPS client"), "does not speak TLS", true},
		{fmt.Errorf("get: %w", io.EOF), "closes connections", false},
		{&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}, "closes connections", false},
		{errors.New("get: Connection closed by foreign host h"), "closes connections", false},
		{io.ErrUnexpectedEOF, "", false},
	} {
		if got := Hint(c.err, "h"); !strings.HasPrefix(got, c.want) && !strings.Contains(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%v: %q, want %q", c.err, got, c.want)
		}
		if Permanent(c.err) != c.permanent {
			t.Errorf("%v: permanent is not %v", c.err, c.permanent)
		}
	}
}
