package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store/internal/byterange"
	"github.com/rivuletfs/rivulet/store/internal/retry"
)

// maxSkip bounds what is read and thrown away to come to a range of a blob,
// where a registry sends whole blobs only: the packs that we write.
const maxSkip = DefaultPackBytes

func hashOf(d origin.Digest) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: d.String()[len("sha256:"):]}
}

func digestOf(h v1.Hash) (origin.Digest, error) { return origin.ParseDigest(h.String()) }

// readRange fills dst with the bytes of blob d, which has size of them, from
// off on.
func (c *client) readRange(ctx context.Context, d origin.Digest, size, off int64, dst []byte) error {
	if end := off + int64(len(dst)); off < 0 || end > size {
		return fmt.Errorf("read blob %v: bytes %d to %d of %d", d, off, end, size)
	}
	awaits := int64(len(dst))
	if c.noRanges.Load() {
		awaits += off
	}
	return c.do(ctx, &request{
		op: "read blob " + d.String(), method: http.MethodGet, url: c.url("blobs/%v", d), blob: d.String(),
		header: http.Header{"Range": {byterange.Header(off, len(dst))}}, awaits: awaits,
		want: []int{http.StatusPartialContent, http.StatusOK},
		read: func(resp *http.Response) error {
			a, from := &byterange.Answer{Status: resp.StatusCode, Header: resp.Header, Body: resp.Body}, off
			if a.Status == http.StatusOK {
				if err := c.skip(a, off); err != nil {
					return err
				}
				from = 0
			} else if total, ok := byterange.ParseTotal(resp.Header.Get("Content-Range")); ok && total != size {
				return retry.Again(fmt.Errorf("the registry says that the blob has %d bytes, want %d", total, size))
			}
			n, err := byterange.Read(a, dst, from)
			if err == nil && n != len(dst) {
				err = retry.Again(fmt.Errorf("the answer has %d bytes, want %d", n, len(dst)))
			}
			return err
		},
	})
}

// skip reads over what comes before a part of a blob, where all of it is sent.
func (c *client) skip(a *byterange.Answer, off int64) error {
	if off > maxSkip {
		return fmt.Errorf("%w: %s sends whole blobs, and this one is too large to be read up to byte %d", ErrNoRanges, c.repo.RegistryStr(), off)
	}
	c.setNoRanges()
	if _, err := io.CopyN(io.Discard, a.Body, off); err != nil {
		return retry.Again(short(err))
	}
	a.Header.Del("Content-Length") // of what is not all there any more
	return nil
}

// setNoRanges notes that the registry ignores ranges, and says so once.
func (c *client) setNoRanges() {
	if c.noRanges.CompareAndSwap(false, true) {
		c.opts.Log.Warn("the registry ignores ranges: every chunk costs reading its pack up to it", "registry", c.repo.RegistryStr())
	}
}

// short names the error of a body that ended too early.
func short(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the answer is cut short: %w", io.ErrUnexpectedEOF)
	}
	return err
}

// readBlob returns the blob that desc describes, checked.
func (c *client) readBlob(ctx context.Context, desc v1.Descriptor, max int64) ([]byte, error) {
	d, err := digestOf(desc.Digest)
	if err != nil {
		return nil, err
	}
	if desc.Size < 0 || desc.Size > max {
		return nil, fmt.Errorf("read blob %v: %d bytes, at most %d are allowed", d, desc.Size, max)
	}
	if desc.Data != nil && int64(len(desc.Data)) == desc.Size && origin.Sum(desc.Data) == d {
		return desc.Data, nil
	}
	return c.fetchBlob(ctx, d, desc.Size, func(resp *http.Response) ([]byte, error) { return readAll(resp.Body, desc.Size) })
}

// readUnsized returns the blob of digest d, whose size is not known, checked. It takes
// memory as the bytes come; in pieces, max at most on the registry's word.
func (c *client) readUnsized(ctx context.Context, d origin.Digest, max int64) ([]byte, error) {
	if c.opts.inPieces() {
		if b, err := c.readPieces(ctx, d, max); !errors.Is(err, ErrNoRanges) {
			return b, err
		}
	}
	return c.fetchBlob(ctx, d, max, func(resp *http.Response) ([]byte, error) { return readUpTo(resp, max) })
}

// fetchBlob returns the blob of digest d, which read takes from an answer of at most
// awaits bytes, checked: no bytes with an error.
func (c *client) fetchBlob(ctx context.Context, d origin.Digest, awaits int64, read func(*http.Response) ([]byte, error)) ([]byte, error) {
	var b []byte
	header := make(http.Header)
	err := c.do(ctx, &request{
		op: "read blob " + d.String(), method: http.MethodGet, url: c.url("blobs/%v", d), blob: d.String(),
		header: header, awaits: awaits, want: []int{http.StatusOK},
		read: func(resp *http.Response) error {
			var err error
			if b, err = read(resp); err != nil {
				return err
			}
			if err := d.Check(b); err != nil {
				header["Cache-Control"] = noCache // it may be a cache that has it damaged
				return retry.Again(err)
			}
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	return b, nil
}

// readAll reads exactly size bytes. It takes memory as they come: a size may be
// a lie.
func readAll(r io.Reader, size int64) ([]byte, error) {
	var b bytes.Buffer
	n, err := io.Copy(&b, io.LimitReader(r, size+1))
	if err != nil {
		return nil, retry.Again(short(err))
	}
	if n != size {
		return nil, retry.Again(fmt.Errorf("the answer has %d bytes or more, want %d", n, size))
	}
	return b.Bytes(), nil
}

// statBlob returns the size of a blob in bytes, or chunk.ErrNotFound.
func (c *client) statBlob(ctx context.Context, d origin.Digest) (size int64, err error) {
	err = c.do(ctx, &request{
		op: "look for blob " + d.String(), method: http.MethodHead, url: c.url("blobs/%v", d),
		want: []int{http.StatusOK},
		read: func(resp *http.Response) error { size = resp.ContentLength; return nil },
	})
	return size, err
}

// writeBlob uploads a blob. Each try is an upload of its own: what is left of
// one that failed is unknown.
func (c *client) writeBlob(ctx context.Context, d origin.Digest, body io.ReaderAt, size int64) error {
	op := "write blob " + d.String()
	return c.try(ctx, op, size, func(ctx context.Context) error {
		var up upload
		if err := c.ask(ctx, c.beginUpload(op, "", &up)); err != nil {
			return err
		}
		err := c.ask(ctx, &request{
			op: op, method: http.MethodPut, url: withQuery(up.to, "digest", d.String()), body: body, size: size,
			header: http.Header{"Content-Type": {"application/octet-stream"}},
			want:   []int{http.StatusCreated, http.StatusNoContent},
		})
		var e *Error
		if errors.As(err, &e) && e.Code == "DIGEST_INVALID" {
			return retry.Again(err) // the bytes changed on the way
		}
		return err
	})
}

// ensureEmpty sees to it that there is the blob that artifacts have where
// images have their configuration.
func (c *client) ensureEmpty(ctx context.Context) error {
	if c.hasEmpty.Load() {
		return nil
	}
	if err := c.ensureBlob(ctx, noConfig); err != nil {
		return err
	}
	c.hasEmpty.Store(true)
	return nil
}

// noteEmpty notes that a manifest of the repository lists that blob: it was put before it.
func (c *client) noteEmpty(m *storedManifest) {
	if m.Config.Digest == emptyHash {
		c.hasEmpty.Store(true)
	}
}

var emptyHash = hashOf(origin.Sum(noConfig))

// ensureBlob writes a blob that is not there yet. A small one is written in any case: asking takes
// as long as sending it, but for the empty one, which nearly always is there.
func (c *client) ensureBlob(ctx context.Context, b []byte) error {
	d := origin.Sum(b)
	if len(b) > inlineBytes || hashOf(d) == emptyHash {
		size, err := c.statBlob(ctx, d)
		if err == nil && size == int64(len(b)) {
			return nil
		}
		if err != nil && !errors.Is(err, chunk.ErrNotFound) {
			return err
		}
	}
	return c.writeBlob(ctx, d, bytes.NewReader(b), int64(len(b)))
}

// An upload is what a registry says to the wish to upload.
type upload struct {
	to      string // where to send the bytes
	mounted bool   // they are there already
}

func (c *client) beginUpload(op, query string, up *upload) *request {
	return &request{
		op: op, method: http.MethodPost, url: c.url("blobs/uploads/") + query,
		want: []int{http.StatusAccepted, http.StatusCreated},
		read: func(resp *http.Response) error {
			if up.mounted = resp.StatusCode == http.StatusCreated; up.mounted {
				return nil
			}
			u, err := resp.Location()
			if err != nil {
				return errors.New("the registry does not say where to upload to")
			}
			if u.Scheme != "https" && resp.Request.URL.Scheme == "https" {
				return errors.New("the registry wants the upload to go over plain HTTP")
			}
			up.to = u.String()
			return nil
		},
	}
}

// mount makes a blob of another repository of the registry one of this too,
// without moving its bytes. The error may be ErrNotMounted.
func (c *client) mount(ctx context.Context, d origin.Digest, from *client) error {
	op := fmt.Sprintf("mount blob %v of %s", d, from.repo.RepositoryStr())
	query := "?" + url.Values{"mount": {d.String()}, "from": {from.repo.RepositoryStr()}}.Encode()
	var up upload
	err := c.do(ctx, c.beginUpload(op, query, &up))
	var answer *Error
	if errors.As(err, &answer) && answer.Status >= 400 && answer.Status < 500 && !errors.Is(err, ErrUnauthorized) && !errors.Is(err, ErrTooMany) {
		return fmt.Errorf("%w: %w", ErrNotMounted, err) // instead of beginning an upload
	}
	if err != nil || up.mounted {
		return err
	}
	// It opened an upload instead, which we do not need.
	_ = c.do(ctx, &request{
		op: op, method: http.MethodDelete, url: up.to,
		want: []int{http.StatusNoContent, http.StatusAccepted, http.StatusOK, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusBadRequest},
	})
	return fmt.Errorf("%s: %w", op, ErrNotMounted)
}

func withQuery(at, key, value string) string {
	sep := "?"
	if strings.Contains(at, "?") {
		sep = "&"
	}
	return at + sep + key + "=" + url.QueryEscape(value)
}
