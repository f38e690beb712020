package registrytest

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
)

// Faults is a handler before a registry that makes it a worse registry, and
// counts requests. Fields may be changed at any time. For a worse network there
// is internal/faultproxy.
type Faults struct {
	Handler http.Handler

	NoRanges   atomic.Bool // whole blobs are sent, whatever was asked for
	NoDelete   atomic.Bool // nothing is deleted: 405
	WrongRange atomic.Bool // Content-Range tells of other bytes than were asked for

	Grow atomic.Bool // every other blob goes on after its end

	Throttle atomic.Int64 // that many requests, from now on, are too many: 429
	Fail     atomic.Int64 // that many, from now on, are answered by 503

	Requests atomic.Int64
	Bytes    atomic.Int64 // of requests' bodies

	mu     sync.Mutex
	counts map[string]int
}

// Count returns how many requests of a method there were since the last Reset,
// whose path has part in it.
func (f *Faults) Count(method, part string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for key, count := range f.counts {
		if m, path, _ := strings.Cut(key, " "); m == method && strings.Contains(path, part) {
			n += count
		}
	}
	return n
}

// Reset sets the counts to zero.
func (f *Faults) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Requests.Store(0)
	f.Bytes.Store(0)
	f.counts = nil
}

func (f *Faults) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return fmt.Sprint(f.counts)
}

// take reports whether there is one left of n, and takes it.
func take(n *atomic.Int64) bool {
	for {
		have := n.Load()
		if have <= 0 {
			return false
		}
		if n.CompareAndSwap(have, have-1) {
			return true
		}
	}
}

func (f *Faults) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i := f.Requests.Add(1)
	f.Bytes.Add(max(r.ContentLength, 0))
	f.mu.Lock()
	if f.counts == nil {
		f.counts = make(map[string]int)
	}
	f.counts[r.Method+" "+r.URL.Path]++
	f.mu.Unlock()
	switch {
	case take(&f.Throttle):
		w.Header().Set("Retry-After", "0")
		refuse(w, http.StatusTooManyRequests, "TOOMANYREQUESTS")
	case take(&f.Fail):
		refuse(w, http.StatusServiceUnavailable, "UNAVAILABLE")
	case f.NoDelete.Load() && r.Method == http.MethodDelete:
		refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED")
	case r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/"):
		f.serveBlob(w, r, i)
	default:
		f.Handler.ServeHTTP(w, r)
	}
}

// serveBlob spoils the answer to a blob's request.
func (f *Faults) serveBlob(w http.ResponseWriter, r *http.Request, i int64) {
	if f.NoRanges.Load() {
		r.Header.Del("Range")
	}
	rec := httptest.NewRecorder()
	f.Handler.ServeHTTP(rec, r)
	body := rec.Body.Bytes()
	for key, values := range rec.Header() {
		w.Header()[key] = values
	}
	if f.WrongRange.Load() && rec.Code == http.StatusPartialContent {
		w.Header().Set("Content-Range", "bytes 1-2/3")
	}
	if f.Grow.Load() && i%2 == 0 && rec.Code < 300 {
		body = append(bytes.Clone(body), "more"...)
		w.Header().Del("Content-Length")
	}
	w.WriteHeader(rec.Code)
	_, _ = w.Write(body) // the client may be gone
}

// refuse answers with an error, as registries write them.
func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":"injected"}]}`, code)
}

// Auth is a handler before a registry that wants tokens, and gives them for a
// name and a password. What it says in errors repeats the secrets that it was
// sent, as some servers do.
type Auth struct {
	Handler  http.Handler
	User     string
	Uses     int64       // requests that a token is good for; 0: any number
	ReadOnly atomic.Bool // tokens are good for reading only

	Issued atomic.Int64 // tokens given

	mu       sync.Mutex
	password string
	tokens   map[string]int64 // uses left
	scopes   map[string]bool  // asked for
}

// Asked reports whether a token was asked for that is good for a scope.
func (a *Auth) Asked(scope string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.scopes[scope]
}

// SetPassword changes the password. Tokens that were given are no longer good.
func (a *Auth) SetPassword(p string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.password, a.tokens = p, make(map[string]int64)
}

func (a *Auth) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/token" {
		a.token(w, r)
		return
	}
	sent := r.Header.Get("Authorization")
	if !a.good(strings.TrimPrefix(sent, "Bearer ")) {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="test",scope="repository:any:pull,push"`, r.Host))
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprintf(w, `{"errors":[{"code":"UNAUTHORIZED","message":"you sent %s"}]}`, sent)
		return
	}
	if a.ReadOnly.Load() && r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, `{"errors":[{"code":"DENIED","message":"you sent %s"}]}`, sent)
		return
	}
	a.Handler.ServeHTTP(w, r)
}

func (a *Auth) good(token string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	left, ok := a.tokens[token]
	if !ok || left == 0 {
		return false
	}
	if left > 0 {
		a.tokens[token] = left - 1
	}
	return true
}

func (a *Auth) token(w http.ResponseWriter, r *http.Request) {
	user, password, _ := r.BasicAuth()
	a.mu.Lock()
	defer a.mu.Unlock()
	if user != a.User || password != a.password {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprintf(w, `{"errors":[{"code":"UNAUTHORIZED","message":"wrong password %s"}]}`, password)
		return
	}
	if a.scopes == nil {
		a.scopes = make(map[string]bool)
	}
	for _, scope := range r.URL.Query()["scope"] {
		a.scopes[scope] = true
	}
	token := "token-" + rand.Text()
	if a.tokens[token] = a.Uses; a.Uses == 0 {
		a.tokens[token] = -1
	}
	a.Issued.Add(1)
	_ = json.NewEncoder(w).Encode(map[string]string{"token": token}) // the client may be gone
}

// Redirect is a handler before a registry that sends whoever asks for a blob on
// to a signed URL of another server, as registries on object stores do.
type Redirect struct {
	Handler http.Handler // the registry
	To      string       // URL that the other server has, which serves Blobs
	Scheme  string       // of the URLs given; "" is To's

	mu        sync.Mutex
	signature string
	Served    atomic.Int64 // blobs that the other server sent
	Refused   atomic.Int64
	Leaked    atomic.Int64 // requests there that carried a login
}

// Expire makes the URLs given so far bad.
func (d *Redirect) Expire() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.signature = "signature-" + rand.Text()
}

func (d *Redirect) current() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.signature
}

func (d *Redirect) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
		d.Handler.ServeHTTP(w, r)
		return
	}
	to := d.To
	if d.Scheme != "" {
		to = d.Scheme + strings.TrimPrefix(to, "http")
	}
	http.Redirect(w, r, to+r.URL.Path+"?sig="+d.current(), http.StatusTemporaryRedirect)
}

// Blobs is what the other server serves.
func (d *Redirect) Blobs(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "" {
		d.Leaked.Add(1)
	}
	if r.URL.Query().Get("sig") != d.current() {
		d.Refused.Add(1)
		http.Error(w, "signature "+r.URL.Query().Get("sig")+" expired", http.StatusForbidden)
		return
	}
	d.Served.Add(1)
	d.Handler.ServeHTTP(w, r)
}
