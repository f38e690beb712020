// Package gate is the network of a program that has none: a proxy of HTTP on a Unix socket,
// which leads to the hosts that are named, and nowhere else.
//
// Names are looked up by this process, and its settings of proxies count. What goes through
// a CONNECT is not looked into: TLS is between the program and the host.
package gate

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/internal/lateregexp"
)

// Name is that of the socket in its folder.
const Name = "gate"

const (
	maxTunnels   = 256              // at one time
	maxRefused   = 16               // hosts that are remembered
	dialTimeout  = 30 * time.Second // to a host or a proxy, its answer included
	headTimeout  = 30 * time.Second // for what a request begins with
	maxHeadBytes = 64 << 10
)

// A Gate serves until it is closed.
type Gate struct {
	hosts   []string // HOST:PORT
	proxy   func(*http.Request) (*url.URL, error)
	server  *http.Server
	forward *httputil.ReverseProxy
	tunnels chan struct{} // a place each
	quit    context.CancelFunc
	over    context.Context
	ended   sync.WaitGroup // the server and all that it answers

	mu      sync.Mutex // guards what follows
	closed  bool
	refused []string
}

// Open opens a gate to hosts, each as HOST:PORT, with its socket in a folder of this
// process's, where every user who can look into that may connect. proxy, if not nil, is the
// proxy to reach all hosts by; else the variables of the process say which.
func Open(dir string, hosts []string, proxy *url.URL) (*Gate, error) {
	g := &Gate{hosts: slices.Clone(hosts), proxy: http.ProxyFromEnvironment, tunnels: make(chan struct{}, maxTunnels)}
	if proxy != nil {
		g.proxy = http.ProxyURL(proxy)
	}
	// By its descriptor, as names of sockets are bounded and those of folders are not.
	folder, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = folder.Close() }()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/%s", folder.Fd(), Name), Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // the folder is another by then
	if err := unix.Chmod(filepath.Join(dir, Name), 0o666); err != nil {
		return nil, errors.Join(&os.PathError{Op: "chmod", Path: filepath.Join(dir, Name), Err: err}, l.Close())
	}
	g.over, g.quit = context.WithCancel(context.Background())
	quiet := log.New(io.Discard, "", 0)
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy, transport.DisableCompression = g.proxy, true
	g.forward = &httputil.ReverseProxy{Rewrite: func(*httputil.ProxyRequest) {}, Transport: transport, ErrorLog: quiet}
	// Requests end with the gate, also those whose connection has become another protocol's, which the server forgets.
	base := func(net.Listener) context.Context { return g.over }
	g.server = &http.Server{Handler: http.HandlerFunc(g.serve), BaseContext: base, ReadHeaderTimeout: headTimeout, MaxHeaderBytes: maxHeadBytes, ErrorLog: quiet}
	g.ended.Go(func() { _ = g.server.Serve(l); transport.CloseIdleConnections() })
	return g, nil
}

// Close ends what is under way.
func (g *Gate) Close() error {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.quit()
	err := g.server.Close()
	g.ended.Wait()
	return err
}

// Refused returns the hosts that were asked for and are not named, as HOST:PORT.
func (g *Gate) Refused() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.refused)
}

// admits reports whether a host is named, and remembers one that is not.
func (g *Gate) admits(host string) bool {
	host = strings.ToLower(host)
	if slices.Contains(g.hosts, host) {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.refused) < maxRefused && !slices.Contains(g.refused, host) {
		g.refused = append(g.refused, host)
	}
	return false
}

// begin counts an answer, unless the gate is closed: a server does not wait for those who
// have taken their connection over.
func (g *Gate) begin() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.ended.Add(1)
	}
	return !g.closed
}

func (g *Gate) serve(w http.ResponseWriter, r *http.Request) {
	if !g.begin() {
		return
	}
	defer g.ended.Done()
	switch {
	case r.Method == http.MethodConnect:
		if !g.admits(r.Host) {
			http.Error(w, "no host of an index", http.StatusForbidden)
			return
		}
		g.tunnel(w, r.Host)
	case r.URL.Scheme == "http":
		if !g.admits(withPort(r.URL)) {
			http.Error(w, "no host of an index", http.StatusForbidden)
			return
		}
		g.forward.ServeHTTP(w, r)
	default:
		http.Error(w, "this is a proxy", http.StatusBadRequest)
	}
}

// tunnel leads a connection to a host until either ends it.
func (g *Gate) tunnel(w http.ResponseWriter, host string) {
	select {
	case g.tunnels <- struct{}{}:
		defer func() { <-g.tunnels }()
	default:
		http.Error(w, "too many connections", http.StatusServiceUnavailable)
		return
	}
	to, err := g.dial(host)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer func() { _ = to.Close() }()
	from, buffered, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer func() { _ = from.Close() }()
	stop := context.AfterFunc(g.over, func() { _, _ = from.Close(), to.Close() })
	defer stop()
	if _, err := io.WriteString(from, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(to, buffered)
		if half, ok := to.(interface{ CloseWrite() error }); ok { // who asks has no more to ask
			_ = half.CloseWrite()
		}
	}()
	_, _ = io.Copy(from, to)
	_, _ = from.Close(), to.Close()
	<-done
}

// dial connects to a host, through a proxy if there is one.
func (g *Gate) dial(host string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(g.over, dialTimeout)
	defer cancel()
	by, err := g.proxy(&http.Request{URL: &url.URL{Scheme: "https", Host: host}})
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	if by == nil {
		return d.DialContext(ctx, "tcp", host)
	}
	if by.Scheme != "http" && by.Scheme != "https" {
		return nil, fmt.Errorf("proxy of scheme %.20q: http and https are supported", by.Scheme)
	}
	c, err := d.DialContext(ctx, "tcp", withPort(by))
	if err != nil {
		return nil, err
	}
	if by.Scheme == "https" {
		c = tls.Client(c, &tls.Config{ServerName: by.Hostname()})
	}
	if err := ask(ctx, c, host, by.User); err != nil {
		return nil, errors.Join(fmt.Errorf("the proxy: %w", err), c.Close())
	}
	return c, nil
}

// ask has a proxy connect to a host.
func ask(ctx context.Context, c net.Conn, host string, user *url.Userinfo) error {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: host}, Host: host, Header: make(http.Header)}
	if user != nil {
		password, _ := user.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	if err := req.Write(c); err != nil {
		return err
	}
	// By the byte: what follows the head is the host's, and not to be read here.
	res, err := http.ReadResponse(bufio.NewReaderSize(io.LimitReader(oneByte{c}, maxHeadBytes), 16), req)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return errors.New(res.Status)
	}
	return nil
}

// oneByte reads a byte at a time.
type oneByte struct{ from io.Reader }

func (o oneByte) Read(p []byte) (int, error) { return o.from.Read(p[:min(1, len(p))]) }

// withPort returns the host of an address as HOST:PORT, in lower case.
func withPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = "443"
		if u.Scheme == "http" {
			port = "80"
		}
	}
	return strings.ToLower(net.JoinHostPort(u.Hostname(), port))
}

var addresses = lateregexp.New("https?://[^\\s'\"<>,;|`]+")

// HostsIn returns the hosts of all addresses in texts, each once, as HOST:PORT.
func HostsIn(texts ...string) []string {
	var out []string
	for _, text := range texts {
		for _, a := range addresses().FindAllString(text, -1) {
			if u, err := url.Parse(a); err == nil && u.Hostname() != "" && !slices.Contains(out, withPort(u)) {
				out = append(out, withPort(u))
			}
		}
	}
	return out
}
