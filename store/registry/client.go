package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/store/internal/link"
	"github.com/rivuletfs/rivulet/store/internal/retry"
)

const (
	maxRedirects   = 5
	requestsAtOnce = 16       // of one call
	discardBytes   = 64 << 10 // read of an answer that is not wanted, so that its connection is used again
)

// A client sends requests to one repository. Any number may be under way.
type client struct {
	repo  name.Repository
	opts  *Options
	locks *locks
	again retry.Policy

	api      atomic.Int32 // whether there is a referrers API
	noRanges atomic.Bool  // that ranges are ignored was said
	changes  listChanges  // of lists of referrers
	hasEmpty atomic.Bool  // the blob that artifacts have for a configuration is there

	mu     sync.Mutex        // guards what follows
	auth   http.RoundTripper // adds credentials; nil until the first request
	hope   *hopeful          // sends requests while Open asks how credentials are wanted; else nil
	scopes []string          // what to ask a token for
	moved  map[string]moved  // where blobs were found, by digest
}

// A request is one question to the registry, which may be asked several times.
type request struct {
	op     string // what for, in errors
	method string
	url    string
	header http.Header
	body   io.ReaderAt // sent from its beginning; nil: none
	size   int64       // bytes of body
	awaits int64       // bytes of the answer, where it may be large
	want   []int       // statuses that are answers
	// read takes what it needs of an answer. Its error is a retry.Failure if
	// another answer may be better. It may be nil.
	read func(resp *http.Response) error
	// blob is the digest of the blob that is asked for, which may have moved.
	blob string
}

func newClient(repo name.Repository, opts *Options) *client {
	return &client{
		repo: repo, opts: opts, locks: processLocks, again: link.NewPolicy(),
		scopes: []string{repo.Scope(transport.PullScope)}, moved: make(map[string]moved),
	}
}

// url returns the URL of something in the repository.
func (c *client) url(format string, args ...any) string {
	return c.repo.Scheme() + "://" + c.repo.RegistryStr() + "/v2/" + c.repo.RepositoryStr() + "/" + fmt.Sprintf(format, args...)
}

// do asks until there is an answer, or no hope of one.
func (c *client) do(ctx context.Context, r *request) error {
	return c.try(ctx, r.op, r.size+r.awaits, func(ctx context.Context) error { return c.ask(ctx, r) })
}

// try calls ask until that has succeeded, or there is no hope that it will. If
// the registry does not take our credentials, they are looked up anew, once:
// they may have expired. size is how many bytes are moved, more or less; it
// gives the time that one try may take.
func (c *client) try(ctx context.Context, op string, size int64, ask func(ctx context.Context) error) error {
	renewed := false
	err := c.again.Do(ctx, func(ctx context.Context) error {
		limited, cancel := link.Limit(ctx, size)
		defer cancel()
		err := ask(limited)
		if errors.Is(err, ErrUnauthorized) && !renewed {
			renewed = true
			c.forgetCredentials()
			err = ask(limited)
		}
		if err != nil && limited.Err() != nil && ctx.Err() == nil {
			return retry.Again(fmt.Errorf("it took too long: %w", err))
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return nil
}

// ask asks once. Its error is a retry.Failure if asking again may help.
func (c *client) ask(ctx context.Context, r *request) error {
	resp, err := c.send(ctx, r)
	if err != nil {
		return c.scrub(err)
	}
	defer func() {
		_, _ = io.CopyN(io.Discard, resp.Body, discardBytes)
		_ = resp.Body.Close()
	}()
	if !slices.Contains(r.want, resp.StatusCode) {
		err := newError(c.repo, resp)
		if link.Transient(resp.StatusCode) {
			return &retry.Failure{Err: err, After: link.RetryAfter(resp.Header)}
		}
		return err
	}
	if r.read == nil {
		return nil
	}
	return r.read(resp)
}

// send sends r, and follows where a blob has moved to. The caller closes the
// answer's body.
func (c *client) send(ctx context.Context, r *request) (*http.Response, error) {
	rt, err := c.transport(ctx)
	if err != nil {
		return nil, err
	}
	if at := c.movedTo(r.blob); at != "" {
		resp, err := c.roundTrip(ctx, rt, r, at)
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
		resp, err := c.roundTrip(ctx, rt, r, at)
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
	return nil, fmt.Errorf("the registry sends us on more than %d times", maxRedirects)
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
		return "", errors.New("the registry sends us on without saying where")
	}
	if to.Scheme != "https" && (to.Scheme != "http" || resp.Request.URL.Scheme != "http") {
		return "", fmt.Errorf("the registry sends us on from %s to %s", resp.Request.URL.Scheme, to.Scheme)
	}
	return to.String(), nil
}

func (c *client) roundTrip(ctx context.Context, rt http.RoundTripper, r *request, at string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, r.method, at, nil)
	if err != nil {
		return nil, err
	}
	for key, values := range r.header {
		req.Header[key] = values
	}
	if r.body != nil && r.size > 0 {
		req.ContentLength = r.size
		req.GetBody = func() (io.ReadCloser, error) {
			return io.NopCloser(io.NewSectionReader(r.body, 0, r.size)), nil
		}
		req.Body = http.NoBody // anew gives it its body
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return nil, c.connectError(err)
	}
	return resp, nil
}

// transport returns the round tripper that adds credentials, for which the
// registry is asked once how it wants them.
func (c *client) transport(ctx context.Context) (http.RoundTripper, error) {
	c.mu.Lock()
	rt, hope := c.auth, c.hope
	c.mu.Unlock()
	if rt != nil {
		return rt, nil
	}
	if hope != nil {
		return hope, nil
	}
	rt, _, err := c.login(ctx)
	return rt, err
}

// login asks the registry how it wants credentials. open tells that it wants none, and
// that we have none.
func (c *client) login(ctx context.Context) (rt http.RoundTripper, open bool, err error) {
	c.mu.Lock()
	scopes := c.scopes
	c.mu.Unlock()
	who, err := authn.Resolve(ctx, c.opts.Keychain, c.repo)
	if err != nil {
		return nil, false, fmt.Errorf("credentials for %s: %w", c.repo.RegistryStr(), err)
	}
	ping := &pinged{RoundTripper: c.sender(), scheme: c.repo.Scheme()}
	rt, err = transport.NewWithContext(ctx, c.repo.Registry, who, transport.NewUserAgent(ping, userAgent), scopes)
	if err != nil {
		return nil, false, c.connectError(err)
	}
	open = ping.open.Load() && isNobody(ctx, who)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.auth == nil {
		c.auth = rt
	}
	return c.auth, open, nil
}

// open logs in for the first time, while others may send requests already.
func (c *client) open(ctx context.Context, op string) error {
	var rt http.RoundTripper
	var open bool
	err := c.try(ctx, op, 0, func(ctx context.Context) (err error) {
		if rt, open, err = c.login(ctx); err != nil {
			return c.scrub(err)
		}
		return nil
	})
	c.mu.Lock()
	hope := c.hope
	c.hope = nil
	c.mu.Unlock()
	hope.settle(rt, open, err)
	return err
}

const userAgent = "rivulet"

// sender sends requests as they are.
func (c *client) sender() http.RoundTripper { return anew{c.opts.Transport} }

func isNobody(ctx context.Context, who authn.Authenticator) bool {
	config, err := authn.Authorization(ctx, who)
	return err == nil && *config == authn.AuthConfig{}
}

// pinged notes whether the registry lets in whoever asks, by the scheme that others
// use meanwhile.
type pinged struct {
	http.RoundTripper
	scheme string
	open   atomic.Bool
}

func (p *pinged) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := p.RoundTripper.RoundTrip(req)
	if err == nil && req.URL.Path == "/v2/" && req.URL.Scheme == p.scheme {
		p.open.Store(resp.StatusCode == http.StatusOK)
	}
	return resp, err
}

// credentials returns the header that a GET of url goes out with, user agent
// left out: what the transport would send is taken from it before it is sent.
func (c *client) credentials(ctx context.Context, url string) (http.Header, error) {
	rt, err := c.transport(ctx)
	if err != nil {
		return nil, c.scrub(err)
	}
	var header http.Header
	req, err := http.NewRequestWithContext(context.WithValue(ctx, unsentKey{}, &header), http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if _, err := rt.RoundTrip(req); !errors.Is(err, errUnsent) {
		return nil, fmt.Errorf("credentials for %s: unexpected answer", c.repo.RegistryStr())
	}
	header.Del("User-Agent")
	return header, nil
}

// unsentKey is where a context has the place for the header of a request that
// is not to be sent.
type unsentKey struct{}

var errUnsent = errors.New("not sent")

// anew sends a request's body from its beginning each time. Without it, a
// request that is sent again with another token would go without its body, and
// some registries keep what they get.
type anew struct{ http.RoundTripper }

func (a anew) RoundTrip(req *http.Request) (*http.Response, error) {
	if header, ok := req.Context().Value(unsentKey{}).(*http.Header); ok {
		*header = req.Header.Clone()
		return nil, errUnsent
	}
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

// connectError says what it means that no answer came, or that the registry or
// its token server did not let us in.
func (c *client) connectError(err error) error {
	var t *transport.Error
	if !errors.As(err, &t) {
		permanent := c.repo.Scheme() == "https" && link.Permanent(err) // others are asked both ways
		hint := link.Hint(err, c.repo.RegistryStr())
		if strings.Contains(err.Error(), "HTTP response to HTTPS client") {
			hint = "it speaks plain HTTP, which insecure=true allows"
		}
		if err = c.scrub(err); hint != "" {
			err = fmt.Errorf("%w: %s", err, hint)
		}
		if permanent {
			return err
		}
		return retry.Again(err)
	}
	e := &Error{Registry: c.repo.RegistryStr(), Repository: c.repo.RepositoryStr(), Status: t.StatusCode}
	if len(t.Errors) > 0 {
		e.Code = code(string(t.Errors[0].Code))
	}
	if t.Temporary() {
		return retry.Again(e)
	}
	return e
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
	var f *retry.Failure
	if errors.As(err, &f) {
		return &retry.Failure{Err: c.scrubText(f.Err), After: f.After, Free: f.Free}
	}
	return c.scrubText(err)
}

func (c *client) scrubText(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = fmt.Errorf("%s: %w", c.repo.RegistryStr(), u.Err)
	}
	if strings.ContainsAny(err.Error(), "\n?") {
		return fmt.Errorf("%s: no usable answer", c.repo.RegistryStr())
	}
	return err
}
