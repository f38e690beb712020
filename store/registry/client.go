package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/errgroup"
)

// Bounds of one request. A registry that is asked for too much says so with
// 429; a retry costs one of a bounded number that successes earn anew, so that
// a storm is not fed.
const (
	maxAttempts   = 6
	firstPause    = 100 * time.Millisecond // twice what is waited on average before the second try
	maxPause      = 5 * time.Second
	maxRetryAfter = 30 * time.Second // what a server may ask for
	retryBudget   = 64               // retries in stock
	retryEarned   = 0.1              // by a success
	stallTime     = time.Minute
	maxRedirects  = 5

	requestsAtOnce = 16       // of one call
	discardBytes   = 64 << 10 // read of an answer that is not wanted, so that its connection is used again
)

var errStalled = errors.New("no byte came for a long time")

// A client sends requests to one repository. Any number may be under way.
type client struct {
	repo  name.Repository
	opts  *Options
	locks *locks
	stall time.Duration // without a byte, after which a connection counts as dead
	pause time.Duration // doubled by each try; a random part of it is waited

	api      atomic.Int32 // whether there is a referrers API
	noRanges atomic.Bool  // that ranges are ignored was said
	hasEmpty atomic.Bool  // the blob that artifacts have for a configuration is there

	mu      sync.Mutex        // guards what follows
	auth    http.RoundTripper // adds credentials; nil until the first request
	scopes  []string          // what to ask a token for
	retries float64           // left in stock
	moved   map[string]moved  // where blobs were found, by digest
}

// A request is one question to the registry, which may be asked several times.
type request struct {
	op     string // what for, in errors
	method string
	url    string
	header http.Header
	body   io.ReaderAt // sent from its beginning; nil: none
	size   int64       // bytes of body
	want   []int       // statuses that are answers
	// read takes what it needs of an answer. Its error is another reason to
	// ask again, unless it is a final one. It may be nil.
	read func(resp *http.Response) error
	// at is where blob is to be asked for first, if it has moved there.
	blob string
}

// final marks an error that asking again does not mend.
type final struct{ error }

func (f final) Unwrap() error { return f.error }

func newClient(repo name.Repository, opts *Options) *client {
	return &client{
		repo: repo, opts: opts, locks: processLocks, stall: stallTime, pause: firstPause, retries: retryBudget,
		scopes: []string{repo.Scope(transport.PullScope)}, moved: make(map[string]moved),
	}
}

// url returns the URL of something in the repository.
func (c *client) url(format string, args ...any) string {
	return c.repo.Scheme() + "://" + c.repo.RegistryStr() + "/v2/" + c.repo.RepositoryStr() + "/" + fmt.Sprintf(format, args...)
}

// do asks until there is an answer, or no hope of one.
func (c *client) do(ctx context.Context, r *request) error {
	return c.retry(ctx, r.op, func() (time.Duration, error) { return c.attempt(ctx, r) })
}

// retry asks until there is an answer, or no hope of one. ask tells how long
// the registry wants us to wait before the next time.
func (c *client) retry(ctx context.Context, op string, ask func() (time.Duration, error)) error {
	renewed := false
	for attempt := 1; ; attempt++ {
		wait, err := ask()
		if err == nil {
			c.earn()
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", op, context.Cause(ctx))
		}
		var f final
		if errors.As(err, &f) {
			var e *Error
			if !errors.As(err, &e) || e.Status != http.StatusUnauthorized || renewed {
				return fmt.Errorf("%s: %w", op, f.error)
			}
			renewed = true // the credentials may have expired
			c.forgetCredentials()
			continue
		}
		if attempt == maxAttempts || !c.spend() {
			return fmt.Errorf("%s: %w (asked %d times)", op, err, attempt)
		}
		if wait == 0 {
			wait = rand.N(min(c.pause<<attempt, maxPause))
		}
		if err := sleep(ctx, wait); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
	}
}

func (c *client) earn() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.retries = min(c.retries+retryEarned, retryBudget)
}

// spend takes a retry out of the stock, if there is one.
func (c *client) spend() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.retries < 1 {
		return false
	}
	c.retries--
	return true
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// attempt asks once. wait is what the registry asks for before the next time.
func (c *client) attempt(ctx context.Context, r *request) (wait time.Duration, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	dog := time.AfterFunc(c.stall, func() { cancel(errStalled) })
	defer dog.Stop()
	resp, err := c.send(ctx, r, dog)
	if err == nil {
		defer func() {
			_, _ = io.CopyN(io.Discard, resp.Body, discardBytes)
			_ = resp.Body.Close()
		}()
		resp.Body = &watched{resp.Body, dog, c.stall}
		if err = c.check(r, resp); err == nil && r.read != nil {
			err = r.read(resp)
		}
		if err != nil {
			wait = retryAfter(resp)
		}
	}
	if errors.Is(context.Cause(ctx), errStalled) {
		err = errStalled
	}
	return wait, c.scrub(err)
}

// check turns a status that is no answer into an error.
func (c *client) check(r *request, resp *http.Response) error {
	for _, status := range r.want {
		if resp.StatusCode == status {
			return nil
		}
	}
	e := newError(c.repo, resp)
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusRequestTimeout, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return e
	}
	return final{e}
}

func retryAfter(resp *http.Response) time.Duration {
	if resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable {
		return 0
	}
	value := resp.Header.Get("Retry-After")
	wait := time.Duration(0)
	if s, err := strconv.Atoi(value); err == nil {
		wait = time.Duration(min(max(s, 0), 3600)) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		wait = max(time.Until(at), 0)
	}
	if wait == 0 {
		return 0
	}
	return min(wait, maxRetryAfter) + rand.N(firstPause) // all that were refused must not come back at once
}

// send sends r, and follows where a blob has moved to. The caller closes the
// answer's body.
func (c *client) send(ctx context.Context, r *request, dog *time.Timer) (*http.Response, error) {
	rt, err := c.transport(ctx)
	if err != nil {
		return nil, err
	}
	if at := c.movedTo(r.blob); at != "" {
		resp, err := c.roundTrip(ctx, rt, r, at, dog)
		if err == nil && (resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent) {
			return resp, nil
		}
		if err == nil {
			_ = resp.Body.Close()
		}
		c.forgetMoved(r.blob) // the place was good for some time only
	}
	at := r.url
	for range maxRedirects {
		resp, err := c.roundTrip(ctx, rt, r, at, dog)
		if err != nil || !isRedirect(r, resp) {
			if err == nil && r.blob != "" && at != r.url {
				c.setMoved(r.blob, at)
			}
			return resp, err
		}
		_ = resp.Body.Close()
		if at, err = redirect(resp); err != nil {
			return nil, err
		}
	}
	return nil, final{fmt.Errorf("the registry sends us on more than %d times", maxRedirects)}
}

func isRedirect(r *request, resp *http.Response) bool {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return r.body == nil && (r.method == http.MethodGet || r.method == http.MethodHead)
	}
	return false
}

// redirect returns where an answer sends us, which must not be less safe than
// where it came from.
func redirect(resp *http.Response) (string, error) {
	to, err := resp.Location()
	if err != nil {
		return "", final{errors.New("the registry sends us on without saying where")}
	}
	if to.Scheme != "https" && (to.Scheme != "http" || resp.Request.URL.Scheme != "http") {
		return "", final{fmt.Errorf("the registry sends us on from %s to %s", resp.Request.URL.Scheme, to.Scheme)}
	}
	return to.String(), nil
}

func (c *client) roundTrip(ctx context.Context, rt http.RoundTripper, r *request, at string, dog *time.Timer) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, r.method, at, nil)
	if err != nil {
		return nil, final{err}
	}
	for key, values := range r.header {
		req.Header[key] = values
	}
	if r.body != nil && r.size > 0 {
		req.ContentLength = r.size
		req.GetBody = func() (io.ReadCloser, error) {
			return &watched{io.NopCloser(io.NewSectionReader(r.body, 0, r.size)), dog, c.stall}, nil
		}
		req.Body = http.NoBody // anew gives it its body
	}
	resp, err := rt.RoundTrip(req)
	dog.Reset(c.stall)
	if err != nil {
		err = c.connectError(err)
	}
	return resp, err
}

// transport returns the round tripper that adds credentials, for which the
// registry is asked once how it wants them.
func (c *client) transport(ctx context.Context) (http.RoundTripper, error) {
	c.mu.Lock()
	rt, scopes := c.auth, c.scopes
	c.mu.Unlock()
	if rt != nil {
		return rt, nil
	}
	who, err := authn.Resolve(ctx, c.opts.Keychain, c.repo)
	if err != nil {
		return nil, final{fmt.Errorf("credentials for %s: %w", c.repo.RegistryStr(), err)}
	}
	base := transport.NewUserAgent(anew{c.opts.Transport}, "rivulet")
	rt, err = transport.NewWithContext(ctx, c.repo.Registry, who, base, scopes)
	if err != nil {
		return nil, c.connectError(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.auth == nil {
		c.auth = rt
	}
	return c.auth, nil
}

// anew sends a request's body from its beginning each time. Without it, a
// request that is sent again with another token would go without its body, and
// some registries keep what they get.
type anew struct{ http.RoundTripper }

func (a anew) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.GetBody != nil {
		body, err := req.GetBody()
		if err != nil {
			return nil, err
		}
		again := *req
		again.Body = body
		req = &again
	}
	return a.RoundTripper.RoundTrip(req)
}

// connectError says what it means that the registry, or its token server, did
// not let us in.
func (c *client) connectError(err error) error {
	var t *transport.Error
	if !errors.As(err, &t) {
		return err
	}
	e := &Error{Registry: c.repo.RegistryStr(), Repository: c.repo.RepositoryStr(), Status: t.StatusCode}
	if len(t.Errors) > 0 {
		e.Code = code(string(t.Errors[0].Code))
	}
	if t.Temporary() {
		return e
	}
	return final{e}
}

func (c *client) forgetCredentials() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.auth = nil
}

// addScopes makes tokens good for more than reading this repository. Other
// scopes a token server names when they are needed.
func (c *client) addScopes(scopes ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range scopes {
		if !slices.Contains(c.scopes, s) {
			c.scopes = append(slices.Clone(c.scopes), s)
			c.auth = nil
		}
	}
}

// each calls fn for 0 to n-1, several at once, until one fails.
func each(ctx context.Context, n int, fn func(ctx context.Context, i int) error) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(requestsAtOnce)
	for i := range n {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error { return fn(gctx, i) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// A watched body keeps the watchdog quiet as long as bytes flow.
type watched struct {
	io.ReadCloser
	dog   *time.Timer
	stall time.Duration
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	w.dog.Reset(w.stall)
	return n, err
}

// moved is where a blob was found, and until when that is believed.
type moved struct {
	to    string
	until time.Time
}

const (
	movedTime = time.Minute // signed URLs live for some minutes
	maxMoved  = 4096        // places remembered
)

func (c *client) movedTo(blob string) string {
	if blob == "" {
		return ""
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	m, ok := c.moved[blob]
	if ok && time.Now().After(m.until) {
		delete(c.moved, blob)
		return ""
	}
	return m.to
}

func (c *client) setMoved(blob, to string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.moved) >= maxMoved {
		clear(c.moved)
	}
	c.moved[blob] = moved{to, time.Now().Add(movedTime)}
}

func (c *client) forgetMoved(blob string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.moved, blob)
}

// scrub takes out of an error what may be secret: the query of a URL, which may
// be signed, and what a token server answered.
func (c *client) scrub(err error) error {
	var f final
	if errors.As(err, &f) {
		return final{c.scrubText(f.error)}
	}
	return c.scrubText(err)
}

func (c *client) scrubText(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return fmt.Errorf("%s: %w", c.repo.RegistryStr(), u.Err)
	}
	if err != nil && strings.ContainsAny(err.Error(), "\n?") {
		return fmt.Errorf("%s: no usable answer", c.repo.RegistryStr())
	}
	return err
}
