package gate

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// through returns a client that goes through a gate's socket.
func through(t *testing.T, dir string) *http.Client {
	t.Helper()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(dir, Name))
	}
	tr := &http.Transport{
		Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: "gate:80"}), DialContext: dial,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func open(t *testing.T, hosts []string, proxy *url.URL) (*Gate, *http.Client) {
	t.Helper()
	// Longer than names of sockets may be.
	dir := filepath.Join(t.TempDir(), strings.Repeat("x", 60), strings.Repeat("y", 60))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	g, err := Open(dir, hosts, proxy)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	link := filepath.Join(t.TempDir(), "d")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	return g, through(t, link)
}

func get(t *testing.T, c *http.Client, from string) string {
	t.Helper()
	res, err := c.Get(from)
	if err != nil {
		return "error"
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Error(err)
	}
	if res.StatusCode != http.StatusOK {
		return res.Status
	}
	return string(b)
}

// TestGate asks for hosts that are named and for others, plainly and by TLS.
func TestGate(t *testing.T) {
	hello := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "hello "+r.URL.Path) })
	plain, secret, other := httptest.NewServer(hello), httptest.NewTLSServer(hello), httptest.NewTLSServer(hello)
	defer plain.Close()
	defer secret.Close()
	defer other.Close()
	g, c := open(t, HostsIn("PIP_INDEX_URL="+plain.URL+"/simple", "x @ "+secret.URL+"/x.whl ; y"), nil)
	for from, want := range map[string]string{
		plain.URL + "/a": "hello /a", secret.URL + "/b": "hello /b", other.URL: "error",
		strings.Replace(other.URL, "https", "http", 1): "403 Forbidden",
	} {
		if got := get(t, c, from); got != want {
			t.Errorf("%s: %q, want %q", from, got, want)
		}
	}
	if got := g.Refused(); !slices.Equal(got, []string{strings.TrimPrefix(other.URL, "https://")}) {
		t.Errorf("refused %q", got)
	}
}

// TestProxy goes by a proxy that wants a password.
func TestProxy(t *testing.T) {
	hello := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	defer hello.Close()
	asked := make(chan string, 10)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Host
		if r.Header.Get("Proxy-Authorization") != "Basic YTpi" {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		to, err := net.Dial("tcp", strings.TrimPrefix(hello.URL, "https://"))
		if err != nil {
			t.Error(err)
			return
		}
		from, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(from, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(to, from); _ = to.Close() }()
		go func() { _, _ = io.Copy(from, to); _ = from.Close() }()
	}))
	defer proxy.Close()
	by, err := url.Parse(strings.Replace(proxy.URL, "//", "//a:b@", 1))
	if err != nil {
		t.Fatal(err)
	}
	_, c := open(t, []string{"index.example:443"}, by)
	if got := get(t, c, "https://index.example/x"); got != "hello" {
		t.Errorf("got %q", got)
	}
	if got := <-asked; got != "index.example:443" {
		t.Errorf("the proxy was asked for %q", got)
	}
	by.User = nil
	_, c = open(t, []string{"index.example:443"}, by)
	if got := get(t, c, "https://index.example/x"); got != "error" {
		t.Errorf("without a password: %q", got)
	}
}

// TestClose closes a gate while a connection is open: it ends.
func TestClose(t *testing.T) {
	s, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	dir := t.TempDir()
	g, err := Open(dir, []string{s.Addr().String()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", filepath.Join(dir, Name))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, "CONNECT "+s.Addr().String()+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil || !strings.Contains(line, "200") {
		t.Fatalf("%q, %v", line, err)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Error(err)
	}
}

func TestHostsIn(t *testing.T) {
	got := HostsIn("--index-url https://u:p@One.example/simple\nx @ git+https://two.example:8443/x", "a=http://[::1]/ https://one.example/again", "https://")
	if want := []string{"one.example:443", "two.example:8443", "[::1]:80"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestCloseUpgraded closes a gate while a connection is open that is no more HTTP's: it ends.
func TestCloseUpgraded(t *testing.T) {
	ended := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n")
		go func() { _, _ = io.Copy(io.Discard, c); _ = c.Close(); close(ended) }()
	}))
	defer s.Close()
	at := strings.TrimPrefix(s.URL, "http://")
	dir := t.TempDir()
	g, err := Open(dir, []string{at}, nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", filepath.Join(dir, Name))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, "GET "+s.URL+"/ HTTP/1.1\r\nHost: "+at+"\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil || !strings.Contains(line, "101") {
		t.Fatalf("%q, %v", line, err)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	<-ended
}
