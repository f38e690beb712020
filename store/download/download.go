// Package download sends an origin.Request for somebody who has no store: it has
// no credentials but those in the request, and keeps none.
//
// The request comes from another process, so it is not believed. It may go to
// http and https alone, and to the hosts that are allowed; redirects stay within
// both, and within its scheme. The answer is not believed either: it is written
// to a sink that checks it, in order and once; what was written is not asked for
// again when a connection breaks.
package download

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store/internal/byterange"
	"github.com/rivuletfs/rivulet/store/internal/link"
	"github.com/rivuletfs/rivulet/store/internal/retry"
)

// Bounds of a download.
const (
	attempts     = 3
	maxRedirects = 5
	copyBytes    = 64 << 10
	leastBytes   = 16 << 10 // gathered before they are written
	// maxSkip is how many bytes of an answer without range are read over.
	maxSkip = 8 << 20
)

var (
	// ErrRequest is returned (wrapped) for a request that is not sent.
	ErrRequest = errors.New("request is not allowed")
	// ErrDenied is returned (wrapped) when the server does not accept what the
	// request says of who asks; it may have expired.
	ErrDenied = errors.New("the origin refuses the request")
)

// Options are how requests are sent.
type Options struct {
	Connections int                    // to one host; 0: link.Connections
	Stall       time.Duration          // without a byte; 0: link.Stall
	CAFile      string                 // PEM certificates of authorities trusted besides the system's; "": none
	Allow       func(host string) bool // which hosts may be asked, without port; nil: all
}

// A Client sends requests over connections that it keeps. Any number of calls
// may run at once.
type Client struct {
	http    http.Client
	connect *http.Transport
	allow   func(host string) bool
	policy  retry.Policy
	buffers sync.Pool // of *[copyBytes]byte
}

// New returns a client. Close frees what it holds.
func New(o Options) (*Client, error) {
	transport, err := link.New(link.Options{Connections: o.Connections, Stall: o.Stall, CAFile: o.CAFile})
	if err != nil {
		return nil, err
	}
	c := &Client{connect: transport, allow: o.Allow, policy: link.NewPolicy()}
	c.policy.Attempts = attempts
	c.http = http.Client{Transport: located{transport}, CheckRedirect: c.checkRedirect}
	c.buffers.New = func() any { return new([copyBytes]byte) }
	return c, nil
}

// Close closes idle connections. Calls that still run are not disturbed.
func (c *Client) Close() { c.connect.CloseIdleConnections() }

// located refuses an answer that leads to what is no address. [http.Client] would
// too, by an error that has all of it, signature included.
type located struct{ http.RoundTripper }

func (l located) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := l.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if _, err := resp.Location(); err != nil && !errors.Is(err, http.ErrNoLocation) {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("%w: redirected to what is no address", ErrRequest)
	}
	return resp, nil
}

func (c *Client) checkRedirect(r *http.Request, via []*http.Request) error {
	r.Header.Del("Referer") // it has the address of the request, which may be signed
	if len(via) > maxRedirects {
		return fmt.Errorf("%w: more than %d redirects", ErrRequest, maxRedirects)
	}
	if r.URL.Scheme != via[0].URL.Scheme {
		return fmt.Errorf("%w: redirected from %s to %.10q", ErrRequest, via[0].URL.Scheme, r.URL.Scheme)
	}
	return c.checkURL(r.URL)
}

func (c *Client) checkURL(u *url.URL) error {
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("%w: scheme %.10q", ErrRequest, u.Scheme)
	case u.Host == "" || u.User != nil:
		return fmt.Errorf("%w: no host, or a user in the address", ErrRequest)
	case c.allow != nil && !c.allow(u.Hostname()):
		return fmt.Errorf("%w: host %.100q", ErrRequest, u.Hostname())
	}
	return nil
}

// hop are the fields of a header that are the connection's, not the request's.
var hop = map[string]bool{
	"Connection": true, "Host": true, "Content-Length": true, "Transfer-Encoding": true, "Upgrade": true, "Te": true,
	"Trailer": true, "Range": true, "If-Range": true, "Expect": true, "Accept-Encoding": true, "Proxy-Authorization": true,
}

// Check reports, by an error that is ErrRequest, whether r would be sent.
func (c *Client) Check(r *origin.Request) error {
	u, err := url.Parse(r.URL)
	if err != nil {
		return fmt.Errorf("%w: not an address", ErrRequest)
	}
	for name := range r.Header {
		if hop[http.CanonicalHeaderKey(name)] {
			return fmt.Errorf("%w: header field %s", ErrRequest, http.CanonicalHeaderKey(name))
		}
	}
	if r.Offset < 0 || r.Length < 0 || r.Length > chunk.MaxStoredSize || r.Offset > 1<<62 {
		return fmt.Errorf("%w: %d bytes at %d", ErrRequest, r.Length, r.Offset)
	}
	return c.checkURL(u)
}

// Get sends r and writes the chunk's bytes to the writer that begin returns when
// the size of the object is known. It tries again, from where it was, when the
// connection or the server fails for a moment. Errors of begin and of the writer
// end it and are returned as they are. No error has the address or a header in
// it.
func (c *Client) Get(ctx context.Context, r origin.Request, begin func(size int64) (io.Writer, error)) error {
	if err := c.Check(&r); err != nil {
		return err
	}
	t := transfer{client: c, request: &r, begin: begin, size: r.Length}
	ctx, cancel := link.Limit(ctx, max(r.Length, chunk.Size))
	defer cancel()
	return c.policy.Do(ctx, t.attempt)
}

// A transfer is one chunk on its way.
type transfer struct {
	client  *Client
	request *origin.Request
	begin   func(size int64) (io.Writer, error)
	sink    io.Writer // nil: not begun
	size    int64     // of the object; 0: not known yet
	done    int64     // bytes written
}

// attempt asks for what is still missing.
func (t *transfer) attempt(ctx context.Context) error {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, t.request.URL, nil)
	if err != nil {
		return fmt.Errorf("%w: not an address", ErrRequest)
	}
	for name, values := range t.request.Header {
		q.Header[http.CanonicalHeaderKey(name)] = values
	}
	if q.Header.Get("User-Agent") == "" {
		q.Header.Set("User-Agent", "rivulet")
	}
	from := t.request.Offset + t.done
	switch {
	case t.size > 0:
		q.Header.Set("Range", byterange.Header(from, int(t.size-t.done)))
	case t.request.Offset > 0:
		q.Header.Set("Range", byterange.Header(from, chunk.MaxStoredSize))
	}
	resp, err := t.client.http.Do(q)
	if err != nil {
		return t.client.failed(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if err := refused(resp); err != nil {
		return err
	}
	if err := t.seek(resp, from); err != nil {
		return err
	}
	return t.copy(resp.Body)
}

// seek finds out the size from an answer, if it was not known, and reads over
// what comes before byte from.
func (t *transfer) seek(resp *http.Response, from int64) error {
	if e := resp.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return fmt.Errorf("unexpected answer: it is encoded as %.20q, which was not asked for", e)
	}
	end := resp.ContentLength // where the answer ends in what the URL names; -1: unknown
	if resp.StatusCode == http.StatusPartialContent {
		total, ok := byterange.ParseTotal(resp.Header.Get("Content-Range"))
		first := "bytes " + strconv.FormatInt(from, 10) + "-"
		if !strings.HasPrefix(resp.Header.Get("Content-Range"), first) {
			return retry.Again(errors.New("unexpected answer: another range than was asked for"))
		}
		if end = -1; ok {
			end = total
		}
	} else if from > 0 {
		if from > maxSkip {
			return errors.New("the server ignores ranges, and the chunk lies too far behind")
		}
		if _, err := io.CopyN(io.Discard, resp.Body, from); err != nil {
			return retry.Again(fmt.Errorf("answer cut short: %w", cause(err)))
		}
	}
	if t.size > 0 {
		return nil
	}
	if t.size = end - t.request.Offset; end < 0 || t.size < 1 || t.size > chunk.MaxStoredSize {
		t.size = 0
		return fmt.Errorf("unexpected answer: a length of %d bytes is no chunk's", end-t.request.Offset)
	}
	return nil
}

// copy writes what is missing of the object.
func (t *transfer) copy(body io.Reader) (err error) {
	if t.sink == nil {
		if t.sink, err = t.begin(t.size); err != nil {
			return err
		}
	}
	buf := t.client.buffers.Get().(*[copyBytes]byte)
	defer t.client.buffers.Put(buf)
	for t.done < t.size {
		n, err := io.ReadAtLeast(body, buf[:min(copyBytes, t.size-t.done)], int(min(leastBytes, t.size-t.done)))
		if n > 0 {
			if _, werr := t.sink.Write(buf[:n]); werr != nil {
				return werr
			}
			t.done += int64(n)
		}
		if err != nil {
			return retry.Again(fmt.Errorf("answer cut short after %d bytes of %d: %w", t.done, t.size, cause(err)))
		}
	}
	// The end of the body lets the connection be used again.
	if n, _ := body.Read(buf[:1]); n > 0 && t.request.Length == 0 {
		return errors.New("unexpected answer: more bytes than it says")
	}
	return nil
}

func cause(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// failed makes an error of the error of a connection, without the address.
func (c *Client) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	permanent := link.Permanent(err) || errors.Is(err, ErrRequest)
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	if permanent {
		return err
	}
	return retry.Again(err)
}

// refused returns an error for an answer that has no chunk in it.
func refused(resp *http.Response) error {
	switch status := resp.StatusCode; {
	case status == http.StatusOK, status == http.StatusPartialContent:
		return nil
	case status == http.StatusNotFound, status == http.StatusGone, status == http.StatusRequestedRangeNotSatisfiable:
		return fmt.Errorf("the origin does not have it: %w", chunk.ErrNotFound)
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return fmt.Errorf("%w: status %d", ErrDenied, status)
	case link.Transient(status):
		return &retry.Failure{Err: fmt.Errorf("status %d of the origin", status), After: link.RetryAfter(resp.Header)}
	default:
		return fmt.Errorf("unexpected answer: status %d", status)
	}
}
