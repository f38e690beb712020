package http

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/store/internal/byterange"
	"github.com/rivuletfs/rivulet/store/internal/link"
	"github.com/rivuletfs/rivulet/store/internal/retry"
)

// A client makes requests. Its methods make one, once, but for do and read.
type client struct {
	http    http.Client
	connect *http.Transport
	policy  retry.Policy
}

func newClient(c *Config) (*client, error) {
	transport, err := link.New(link.Options{Connections: c.Connections, CAFile: c.CAFile})
	if err != nil {
		return nil, err
	}
	return &client{
		http:    http.Client{Transport: transport, CheckRedirect: checkRedirect},
		connect: transport,
		policy:  link.NewPolicy(),
	}, nil
}

var (
	errRedirects = fmt.Errorf("more than %d redirects", maxRedirects)
	errDowngrade = errors.New("redirected from https to http, where whoever is on the way could change what is read")
)

func checkRedirect(r *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return errRedirects
	}
	if r.URL.Scheme != "https" && via[0].URL.Scheme == "https" {
		return errDowngrade
	}
	return nil
}

// always is the header that has caches ask the server before they answer.
var always = http.Header{"Cache-Control": {"no-cache"}}

// url returns the address of a place in t.
func (t *tree) url(place string) string {
	u := *t.root
	u.Path += t.at + place
	return u.String()
}

// ask makes a request for a place in t.
func (t *tree) ask(ctx context.Context, method, place string, header http.Header) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, t.url(place), nil)
	if err != nil {
		return nil, err
	}
	r.Header = header.Clone()
	if r.Header == nil {
		r.Header = make(http.Header)
	}
	r.Header.Set("User-Agent", "rivulet")
	resp, err := t.http.Do(r)
	if err != nil {
		return nil, t.failed(ctx, err)
	}
	if err := t.refused(resp); err != nil {
		_ = resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// failed makes an error of the error of a connection. It leaves out the address,
// which after a redirect may have a secret in it.
func (t *tree) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	permanent := link.Permanent(err) || errors.Is(err, errRedirects) || errors.Is(err, errDowngrade)
	hint := link.Hint(err, t.root.Host)
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	if hint != "" {
		err = fmt.Errorf("%w: %s", err, hint)
	}
	if permanent {
		return err
	}
	return retry.Again(err)
}

// refused returns an error for an answer that is none to a GET or HEAD for
// something.
func (t *tree) refused(resp *http.Response) error {
	switch status := resp.StatusCode; {
	case status == http.StatusOK, status == http.StatusPartialContent, status == http.StatusRequestedRangeNotSatisfiable:
		return nil
	case status == http.StatusNotFound, status == http.StatusGone:
		return chunk.ErrNotFound
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return fmt.Errorf("status %d: %s does not let this be read; allow reading to all, and listing too if it is a bucket, so that what is not there is 404",
			status, t.root.Host)
	case link.Transient(status):
		return &retry.Failure{
			Err:   fmt.Errorf("status %d: %s is in trouble or has too much to do; try again later", status, t.root.Host),
			After: link.RetryAfter(resp.Header),
		}
	default:
		return fmt.Errorf("status %d from %s", status, t.root.Host)
	}
}

// do calls op until it succeeds or trying again is of no use. size is about how
// many bytes op moves.
func (c *client) do(ctx context.Context, size int64, op func(context.Context) error) error {
	ctx, cancel := link.Limit(ctx, size)
	defer cancel()
	return c.policy.Do(ctx, op)
}

// read returns all of what is at a place, at most most bytes.
func (t *tree) read(ctx context.Context, place string, most int64, header http.Header) ([]byte, error) {
	ctx, cancel := link.Limit(ctx, most)
	defer cancel()
	return byterange.Whole(ctx, &t.policy, most, func(ctx context.Context, off int64, etag string) (*byterange.Answer, error) {
		header := header.Clone()
		if off > 0 {
			if header == nil {
				header = make(http.Header)
			}
			header.Set("Range", fmt.Sprintf("bytes=%d-", off))
			header.Set("If-Range", etag)
		}
		return answer(t.ask(ctx, http.MethodGet, place, header))
	})
}

func answer(resp *http.Response, err error) (*byterange.Answer, error) {
	if err != nil {
		return nil, err
	}
	return &byterange.Answer{Status: resp.StatusCode, Header: resp.Header, Body: resp.Body}, nil
}

// size returns how many bytes there are at a place: by HEAD, or where that does
// not tell, by the answer to a request for the first.
func (t *tree) size(ctx context.Context, place string) (int64, error) {
	resp, err := t.ask(ctx, http.MethodHead, place, nil)
	if err == nil {
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusOK && resp.ContentLength >= 0 {
			return resp.ContentLength, nil
		}
	}
	var again *retry.Failure
	if errors.Is(err, chunk.ErrNotFound) || errors.As(err, &again) || ctx.Err() != nil {
		return 0, err
	}
	resp, err = t.ask(ctx, http.MethodGet, place, http.Header{"Range": {byterange.Header(0, 1)}})
	if err != nil {
		return 0, err
	}
	_ = resp.Body.Close()
	if resp.StatusCode == http.StatusOK && resp.ContentLength >= 0 {
		return resp.ContentLength, nil
	}
	if n, ok := byterange.ParseTotal(resp.Header.Get("Content-Range")); ok {
		return n, nil
	}
	return 0, errors.New("the server does not tell its size")
}
