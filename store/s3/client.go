package s3

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/store/internal/byterange"
	"github.com/rivuletfs/rivulet/store/internal/link"
	"github.com/rivuletfs/rivulet/store/internal/retry"
)

// A client makes requests for one bucket. Each of its methods down to put makes
// one, once: do tries again.
type client struct {
	config  *Config
	core    minio.Core
	creds   *credentials.Credentials // nil: anonymous
	keys    *keyring                 // nil: anonymous
	policy  retry.Policy
	connect *http.Transport

	presigner *minio.Core // makes addresses; if anonymous, with a signature by nobody
}

func newClient(c *Config) (*client, error) {
	transport, err := link.New(link.Options{Connections: c.Connections, CAFile: c.CAFile})
	if err != nil {
		return nil, err
	}
	if c.dial != nil {
		transport.DialContext = c.dial
	}
	cl := &client{config: c, connect: transport, policy: link.NewPolicy()}
	options := &minio.Options{
		Secure:       true,
		Transport:    tap{transport},
		Region:       c.region(),
		BucketLookup: map[Style]minio.BucketLookupType{PathStyle: minio.BucketLookupPath, VirtualStyle: minio.BucketLookupDNS}[c.Style],
		MaxRetries:   1, // ours
		Creds:        credentials.NewStatic("", "", "", credentials.SignatureAnonymous),
	}
	if !c.Anonymous {
		cl.keys = newKeyring(c.Profile)
		cl.creds = credentials.New(cl.keys)
		options.Creds = cl.creds
	}
	host := "s3.amazonaws.com"
	if c.Endpoint != nil {
		host = c.Endpoint.Host
		options.Secure = c.Endpoint.Scheme == "https"
	}
	core, err := minio.NewCore(host, options)
	if err != nil {
		return nil, err
	}
	core.SetAppInfo("rivulet", "1")
	cl.core, cl.presigner = *core, core
	if c.Anonymous { // the library makes addresses only for those who sign
		options.Creds = credentials.NewStaticV4("nobody", "none", "")
		cl.presigner, err = minio.NewCore(host, options)
	}
	return cl, err
}

// do calls op until it succeeds or trying again is of no use. size is about how
// many bytes op moves.
func (c *client) do(ctx context.Context, size int64, op func(context.Context) error) error {
	ctx, cancel := link.Limit(ctx, size)
	defer cancel()
	return c.policy.Do(ctx, op)
}

// get asks for an object: for the bytes of rng ("" for all), and for those only
// if its ETag still is etag ("" for any).
func (c *client) get(ctx context.Context, key, rng, etag string) (*byterange.Answer, error) {
	var o minio.GetObjectOptions
	if rng != "" {
		o.Set("Range", rng)
	}
	if etag != "" {
		o.Set("If-Range", etag)
	}
	ctx, n := withNote(ctx)
	body, _, header, err := c.core.GetObject(ctx, c.config.Bucket, key, o)
	if err != nil {
		if n.status == http.StatusRequestedRangeNotSatisfiable {
			return &byterange.Answer{Status: n.status, Body: http.NoBody}, nil
		}
		return nil, c.judge(n, err)
	}
	return &byterange.Answer{Status: n.status, Header: header, Body: body}, nil
}

// requestTime is how long a signed address is good.
const requestTime = 5 * time.Minute

// presign returns an address that an object can be read at, signed if need be.
func (c *client) presign(ctx context.Context, key string) (string, error) {
	u, err := c.presigner.PresignedGetObject(ctx, c.config.Bucket, key, requestTime, nil)
	if err != nil {
		return "", c.judge(new(note), err)
	}
	if c.config.Anonymous {
		u.RawQuery = "" // the signature
	}
	return u.String(), nil
}

// read returns all of an object of at most most bytes, and its headers.
func (c *client) read(ctx context.Context, key string, most int64) (data []byte, header http.Header, err error) {
	ctx, cancel := link.Limit(ctx, most)
	defer cancel()
	data, err = byterange.Whole(ctx, &c.policy, most, func(ctx context.Context, off int64, etag string) (*byterange.Answer, error) {
		rng := ""
		if off > 0 {
			rng = fmt.Sprintf("bytes=%d-", off)
		}
		a, err := c.get(ctx, key, rng, etag)
		if err == nil {
			header = a.Header
		}
		return a, err
	})
	return data, header, err
}

// readChecked is read, until check finds nothing wrong with what was read. The
// headers are returned also if it always does.
func (c *client) readChecked(ctx context.Context, key string, most int64, check func([]byte) error) (data []byte, header http.Header, err error) {
	data, err = byterange.Checked(ctx, &c.policy, func(ctx context.Context, _ bool) (b []byte, err error) {
		b, header, err = c.read(ctx, key, most)
		return b, err
	}, check)
	return data, header, err
}

// head tells of an object.
func (c *client) head(ctx context.Context, key string) (minio.ObjectInfo, error) {
	ctx, n := withNote(ctx)
	info, err := c.core.StatObject(ctx, c.config.Bucket, key, minio.StatObjectOptions{Checksum: true})
	return info, c.judge(n, err)
}

// A condition is under what an object is put.
type condition struct {
	absent bool   // only if there is none
	etag   string // only if it is this one; "": whatever it is
}

// errCondition is returned by put when its condition does not hold.
var errCondition = errors.New("condition does not hold")

// An upload is an object to put.
type upload struct {
	key      string
	data     []byte
	sum      [32]byte // SHA-256 of data
	checksum bool     // the server is to keep sum
	cache    string   // Cache-Control
	writer   string   // kept with the object; "": nothing
}

// writerHeader is what an upload's writer is kept as.
const writerHeader = "X-Amz-Meta-Rivulet-Writer"

// put stores an object, once, and reports how often the server may have done so.
func (c *client) put(ctx context.Context, u *upload, when condition) (sent int, err error) {
	o := minio.PutObjectOptions{CacheControl: u.cache, DisableContentSha256: true, UserMetadata: map[string]string{}}
	if u.checksum {
		o.UserMetadata["x-amz-checksum-sha256"] = base64.StdEncoding.EncodeToString(u.sum[:])
	}
	if u.writer != "" {
		o.UserMetadata[writerHeader] = u.writer
	}
	switch {
	case when.absent:
		o.SetMatchETagExcept("*")
	case when.etag != "":
		o.SetMatchETag(when.etag)
	}
	ctx, n := withNote(ctx)
	n.body = &lentBody{data: u.data}
	defer n.body.takeBack()
	_, err = c.core.PutObject(ctx, c.config.Bucket, u.key, bytes.NewReader(u.data), int64(len(u.data)), "", hex.EncodeToString(u.sum[:]), o)
	if n.status == http.StatusPreconditionFailed || when.etag != "" && n.status == http.StatusNotFound {
		return n.sent, errCondition
	}
	if n.status == http.StatusServiceUnavailable || n.status == http.StatusTooManyRequests {
		n.sent-- // that one it has refused
	}
	return n.sent, c.judge(n, err)
}

// remove removes an object; one that is not there is no error. With an ETag, it
// removes that one alone, and of another the error is errCondition; but see
// Origin.sweep: not every server looks at that.
func (c *client) remove(ctx context.Context, key, etag string) error {
	ctx, n := withNote(ctx)
	n.match = etag
	err := c.judge(n, c.core.RemoveObject(ctx, c.config.Bucket, key, minio.RemoveObjectOptions{}))
	switch {
	case etag != "" && n.status == http.StatusPreconditionFailed:
		return errCondition
	case errors.Is(err, chunk.ErrNotFound):
		return nil
	}
	return err
}

// removeAll removes up to pageKeys objects by one request.
func (c *client) removeAll(ctx context.Context, list []entry) error {
	ctx, n := withNote(ctx)
	results, err := c.core.RemoveObjectsWithIter(ctx, c.config.Bucket, func(yield func(minio.ObjectInfo) bool) {
		for _, o := range list {
			if !yield(minio.ObjectInfo{Key: o.key}) {
				return
			}
		}
	}, minio.RemoveObjectsOptions{})
	if err != nil {
		return err
	}
	removed := 0
	for r := range results {
		if r.Err == nil || errors.Is(c.judge(n, r.Err), chunk.ErrNotFound) {
			removed++
		} else if err == nil {
			err = c.judge(n, r.Err)
		}
	}
	if err == nil {
		err = ctx.Err() // the library says nothing then
	}
	if err == nil && removed < len(list) {
		err = retry.Again(fmt.Errorf("unexpected answer: %d of %d objects are removed", removed, len(list)))
	}
	return err
}

// copy makes the object from available as to as well, in the server.
func (c *client) copy(ctx context.Context, from, to string) error {
	ctx, n := withNote(ctx)
	b := c.config.Bucket
	info, err := c.core.CopyObject(ctx, b, from, b, to, nil, minio.CopySrcOptions{}, minio.PutObjectOptions{})
	if err == nil && info.ETag == "" { // a server may find out after it has said 200
		return retry.Again(errors.New("unexpected answer to a copy: no ETag"))
	}
	return c.judge(n, err)
}

// A note is what the library does not tell of a request, or cannot send.
type note struct {
	body  *lentBody // to send; nil: the library's
	match string    // ETag to send as a condition; "": none

	sent       int         // how often the request may have reached the server
	reused     bool        // the last time, on a connection that had been used before
	answered   atomic.Bool // by a first byte at least; set by the connection's goroutine
	status     int         // 0: no answer
	retryAfter time.Duration
	date       string // of the server
}

type noteKey struct{}

func withNote(ctx context.Context) (context.Context, *note) {
	n := new(note)
	return context.WithValue(ctx, noteKey{}, n), n
}

// A tap is the transport, and fills in notes.
type tap struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper. A request that finds its idle
// connection closed is sent again at once, which net/http does when it is told
// that it may.
func (t tap) RoundTrip(r *http.Request) (*http.Response, error) {
	n, _ := r.Context().Value(noteKey{}).(*note)
	if n == nil {
		return t.next.RoundTrip(r)
	}
	ctx := httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		GotConn:              func(i httptrace.GotConnInfo) { n.sent, n.reused = n.sent+1, i.Reused },
		GotFirstResponseByte: func() { n.answered.Store(true) },
	})
	r = r.WithContext(ctx)
	r.Header = maps.Clone(r.Header)
	r.Header["Idempotency-Key"] = []string{} // is not sent: net/http documents this
	if n.match != "" {
		r.Header.Set("If-Match", `"`+n.match+`"`)
	}
	if n.body != nil && r.ContentLength > 0 {
		r.GetBody = func() (io.ReadCloser, error) { return n.body.reader(), nil }
		r.Body = n.body.reader()
	}
	resp, err := t.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	n.status, n.date = resp.StatusCode, resp.Header.Get("Date")
	n.retryAfter = link.RetryAfter(resp.Header)
	return resp, nil
}

// A lentBody is bytes that net/http may read until they are taken back: it can
// go on sending a request that has been answered.
type lentBody struct {
	mu   sync.Mutex
	data []byte // nil: taken back
	back bool
}

func (b *lentBody) reader() io.ReadCloser { return &lentReader{b, 0} }

func (b *lentBody) takeBack() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.data, b.back = nil, true
}

type lentReader struct {
	body *lentBody
	off  int
}

func (r *lentReader) Read(p []byte) (int, error) {
	r.body.mu.Lock()
	defer r.body.mu.Unlock()
	if r.body.back {
		return 0, errors.New("request body: the request has ended")
	}
	n := copy(p, r.body.data[r.off:])
	r.off += n
	if r.off == len(r.body.data) {
		return n, io.EOF
	}
	return n, nil
}

func (r *lentReader) Close() error { return nil }
