package faultproxy

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// dripTime is how long a dripping body takes.
const dripTime = 2 * time.Second

// A Server is an HTTP proxy with faults. NewServer makes one.
type Server struct {
	target    string
	seed      uint64
	listener  net.Listener
	server    *http.Server
	transport *http.Transport
	wg        sync.WaitGroup

	mu         sync.Mutex // guards what follows
	requests   uint64
	faults     Faults
	retryAfter time.Duration
	counts     map[Kind]int
	one        single
	observe    func(Request)
}

// A Request is what an observer is told of.
type Request struct {
	At     time.Time // when its header was read
	Client string    // its address, without the port
	Method string
	Path   string // as the client wrote it
	Fault  Kind   // that it meets with; "": none
}

// A single is a fault of one request.
type single struct {
	request uint64 // its number; 0: none
	kind    Kind
	random  uint64
}

// NewServer forwards the requests that it takes at a free port of the loopback
// interface to the HTTP server at target, HOST:PORT, which sees the Host that
// the client sent.
func NewServer(target string, f Faults, seed uint64) (*Server, error) {
	return ListenServer("127.0.0.1:0", target, f, seed)
}

// ListenServer is NewServer at an address, HOST:PORT, of the caller's choice.
func ListenServer(listen, target string, f Faults, seed uint64) (*Server, error) {
	if err := f.Check(); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, err
	}
	s := &Server{
		target: target, seed: seed, listener: listener, faults: f, counts: make(map[Kind]int),
		transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 256},
	}
	s.server = &http.Server{Handler: s}
	s.wg.Go(func() { _ = s.server.Serve(listener) })
	return s, nil
}

// Addr returns the proxy's HOST:PORT.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Set replaces the faults, and the wait that refusals ask for, in whole seconds.
func (s *Server) Set(f Faults, retryAfter time.Duration) error {
	if err := f.Check(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults, s.retryAfter = f, retryAfter
	return nil
}

// Single has one request meet with a fault, besides those that Set is for: the
// nth from now on, n > 0. It replaces the one of the last call. random says where
// a body is cut or which bit is flipped.
func (s *Server) Single(n int, kind Kind, random uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.one = single{s.requests + uint64(n), kind, random}
}

// Observe has fn called for each request from now on, before anything is done with
// it. Calls do not overlap.
func (s *Server) Observe(fn func(Request)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.observe = fn
}

// Requests returns how many requests there were, and how many of them met with
// each kind of fault.
func (s *Server) Requests() (all int, faults map[Kind]int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	faults = make(map[Kind]int)
	for k, n := range s.counts {
		faults[k] = n
	}
	return int(s.requests), faults
}

// Close cuts all connections.
func (s *Server) Close() error {
	err := s.server.Close()
	s.wg.Wait()
	s.transport.CloseIdleConnections()
	return err
}

// choose picks what happens to the next request, and tells of it.
func (s *Server) choose(req *http.Request) (kind Kind, r uint64, retryAfter time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	chance, r := roll(s.seed, s.requests)
	kind = s.faults.pick(chance)
	if s.requests == s.one.request {
		kind, r = s.one.kind, s.one.random
	}
	if kind != "" {
		s.counts[kind]++
	}
	if s.observe != nil {
		client, _, _ := net.SplitHostPort(req.RemoteAddr)
		s.observe(Request{time.Now(), client, req.Method, req.URL.EscapedPath(), kind})
	}
	return kind, r, s.retryAfter
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	kind, random, retryAfter := s.choose(r)
	switch kind {
	case Unavailable, TooMany:
		status, _ := strconv.Atoi(string(kind))
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter/time.Second)))
		http.Error(w, "injected", status)
		return
	case Reset:
		cut(w)
		return
	case Hang:
		_, _ = io.Copy(io.Discard, r.Body) // only then is the client's leaving seen
		<-r.Context().Done()
		cut(w)
		return
	}
	resp, err := s.forward(r)
	if err != nil {
		cut(w)
		return
	}
	defer resp.Body.Close()
	if kind == "" {
		copyHeader(w.Header(), resp)
		w.WriteHeader(resp.StatusCode)
		if _, err := io.Copy(w, resp.Body); err != nil {
			panic(http.ErrAbortHandler)
		}
		return
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		cut(w)
		return
	}
	spoil(w, r, resp, body, kind, random)
}

// forward sends a request on.
func (s *Server) forward(r *http.Request) (*http.Response, error) {
	out := r.Clone(r.Context())
	out.URL.Scheme, out.URL.Host = "http", s.target
	out.RequestURI = ""
	out.Header.Del("Connection")
	return s.transport.RoundTrip(out)
}

func copyHeader(to http.Header, resp *http.Response) {
	for name, values := range resp.Header {
		to[name] = values
	}
	to.Del("Connection")
	if resp.ContentLength >= 0 {
		to.Set("Content-Length", strconv.FormatInt(resp.ContentLength, 10))
	}
}

// spoil answers with a fault.
func spoil(w http.ResponseWriter, r *http.Request, resp *http.Response, body []byte, kind Kind, random uint64) {
	length := len(body)
	switch {
	case kind == LostAnswer:
		cut(w)
		return
	case len(body) == 0 || kind == HalfClose:
	case kind == Truncate:
		body = body[:random%uint64(len(body))]
	case kind == Short:
		body = body[:random%uint64(len(body))]
		length = len(body)
	case kind == Flip:
		bit := random % uint64(8*len(body))
		body[bit/8] ^= 1 << (bit % 8)
	}
	copyHeader(w.Header(), resp)
	if resp.ContentLength >= 0 && r.Method != http.MethodHead {
		w.Header().Set("Content-Length", strconv.Itoa(length))
	}
	if kind == HalfClose {
		halfClose(w, resp.StatusCode, body)
		return
	}
	w.WriteHeader(resp.StatusCode)
	if kind == Drip && len(body) > 0 {
		drip(w, r, body)
		return
	}
	_, _ = w.Write(body)
	if len(body) < length {
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

// drip writes a body in many small parts.
func drip(w http.ResponseWriter, r *http.Request, body []byte) {
	const parts = 40
	flush := http.NewResponseController(w)
	for i := range parts {
		from, to := len(body)*i/parts, len(body)*(i+1)/parts
		if _, err := w.Write(body[from:to]); err != nil {
			return
		}
		_ = flush.Flush()
		select {
		case <-time.After(dripTime / parts):
		case <-r.Context().Done():
			return
		}
	}
}

// halfClose answers in full and then ends its own side of the connection alone.
func halfClose(w http.ResponseWriter, status int, body []byte) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
	header := w.Header().Clone()
	header.Del("Transfer-Encoding")
	if header.Get("Content-Length") == "" && status != http.StatusNoContent {
		header.Set("Content-Length", strconv.Itoa(len(body)))
	}
	_ = header.Write(&b)
	b.WriteString("\r\n")
	b.Write(body)
	c := hijack(w)
	if c == nil {
		return
	}
	defer c.Close()
	if _, err := c.Write(b.Bytes()); err != nil {
		return
	}
	_ = c.CloseWrite()
	// The client's next request is read and never answered.
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	_, _ = io.Copy(io.Discard, c)
}

// cut resets the connection.
func cut(w http.ResponseWriter) {
	if c := hijack(w); c != nil {
		reset(c)
	}
}

func hijack(w http.ResponseWriter) *net.TCPConn {
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil
	}
	_ = c.SetDeadline(time.Time{})
	return c.(*net.TCPConn)
}
