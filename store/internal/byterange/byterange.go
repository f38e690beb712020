// Package byterange reads parts of things over HTTP (RFC 9110, 14), and believes
// no answer that is not exactly what was asked for: servers and caches ignore
// ranges, answer with others, end early, or say one length and send another.
package byterange

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/store/internal/retry"
)

// maxSkip is how many bytes of an answer without range are read over, to get
// at the part that was asked for: a chunk of any size.
const maxSkip = 8 << 20

// An Answer is what a server said to a GET.
type Answer struct {
	Status int
	Header http.Header
	Body   io.ReadCloser
}

// Length returns the length that the answer gives its body, or -1.
func (a *Answer) Length() int64 {
	n, err := strconv.ParseInt(a.Header.Get("Content-Length"), 10, 64)
	if err != nil || n < 0 {
		return -1
	}
	return n
}

// Header returns the Range header that asks for n bytes from off on; n > 0. It
// has no bytes past the largest offset there is.
func Header(off int64, n int) string {
	last := off + int64(n) - 1
	if last < off {
		last = math.MaxInt64
	}
	return fmt.Sprintf("bytes=%d-%d", off, last)
}

// Read reads the answer to a request for len(dst) bytes from off on into dst,
// and closes it. It returns how many there were: fewer than len(dst) if the
// thing ends there. len(dst) > 0. What is wrong with an answer is a
// [retry.Failure] if another try may have a better one.
func Read(a *Answer, dst []byte, off int64) (int, error) {
	defer a.Body.Close()
	if c := a.Header.Get("Content-Encoding"); c != "" && c != "identity" {
		return 0, fmt.Errorf("unexpected answer: it is encoded as %.20q, which was not asked for", c)
	}
	switch a.Status {
	case http.StatusPartialContent:
		return readPart(a, dst, off)
	case http.StatusOK:
		return readWhole(a, dst, off)
	case http.StatusRequestedRangeNotSatisfiable:
		return 0, nil
	case http.StatusNotFound:
		return 0, chunk.ErrNotFound
	}
	return 0, fmt.Errorf("unexpected answer: status %d", a.Status)
}

func readPart(a *Answer, dst []byte, off int64) (int, error) {
	value := a.Header.Get("Content-Range")
	first, last, total, ok := parse(value)
	switch {
	case !ok:
		return 0, unexpected("Content-Range %.60q", value)
	case first != off || last-first >= int64(len(dst)):
		return 0, unexpected("bytes %d to %d, asked for %d from %d on", first, last, len(dst), off)
	}
	n := int(last - first + 1)
	if n < len(dst) && total != last+1 {
		return 0, unexpected("%d bytes of %d from %d on, and more would follow", n, len(dst), off)
	}
	if length := a.Length(); length >= 0 && length != int64(n) {
		return 0, unexpected("length %d for %d bytes", length, n)
	}
	if got, err := fill(a.Body, dst[:n]); err != nil {
		return 0, cut(got, n, err)
	}
	if err := atEnd(a.Body); err != nil {
		return 0, err
	}
	return n, nil
}

// readWhole reads a part of an answer that is the whole thing.
func readWhole(a *Answer, dst []byte, off int64) (int, error) {
	length := a.Length()
	if length >= 0 && length <= off {
		return 0, nil
	}
	if off > maxSkip {
		return 0, fmt.Errorf("unexpected answer: the server ignores ranges, and %d bytes are too many to read over", off)
	}
	skipped, err := io.CopyN(io.Discard, a.Body, off)
	if err == nil {
		want := len(dst)
		if length >= 0 {
			want = int(min(int64(want), length-off))
		}
		var n int
		if n, err = fill(a.Body, dst[:want]); err == nil {
			return n, nil
		}
		skipped += int64(n)
	}
	if length < 0 && err == io.EOF { // it ends where it says that it does
		return max(0, int(skipped-off)), nil
	}
	return 0, cut(int(skipped), int(off)+len(dst), err)
}

// Whole reads all of a thing of at most limit bytes. get asks for it from byte
// off on: for a part if off > 0, and then under the condition (If-Range) that its
// ETag still is etag. What arrived before a connection broke is not asked for
// again, where the server gives strong ETags.
func Whole(ctx context.Context, p *retry.Policy, limit int64, get func(ctx context.Context, off int64, etag string) (*Answer, error)) ([]byte, error) {
	w := whole{limit: limit}
	err := p.Do(ctx, func(ctx context.Context) error {
		off := int64(w.Len())
		if w.etag == "" {
			off = 0
		}
		a, err := get(ctx, off, w.etag)
		if err != nil {
			return err
		}
		return w.add(a, off)
	})
	if err != nil {
		return nil, err
	}
	return w.Bytes(), nil
}

var errTooLarge = errors.New("too large")

// tries is how often Checked reads. Of answers of which one in a hundred is
// damaged, so many in a row are hardly ever.
const tries = 4

// Checked returns what read returns, if check finds nothing wrong with it. If it
// does, or an answer is too large, Checked reads again, some times and as p allows,
// with again set: what was damaged on the way, or by a cache, may be whole where
// it lies. The last error of check is returned, wrapped. Another one of read,
// which makes its own retries, ends it.
func Checked(ctx context.Context, p *retry.Policy, read func(ctx context.Context, again bool) ([]byte, error), check func([]byte) error) ([]byte, error) {
	few := *p
	few.Attempts = min(few.Attempts, tries)
	var b []byte
	again := false
	err := few.Do(ctx, func(ctx context.Context) (err error) {
		b, err = read(ctx, again)
		switch {
		case err == nil:
			err = check(b)
		case !errors.Is(err, errTooLarge): // which the answer to another question may be
			return err
		}
		again = true
		if err != nil {
			return retry.Again(err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return b, nil
}

// whole is what Whole has read so far.
type whole struct {
	bytes.Buffer
	limit int64
	etag  string // strong, of what is in the buffer; or ""
}

// firstGrow is how much memory an answer gets on its word alone, in bytes.
const firstGrow = 1 << 20

// add reads the answer to a request for all bytes from off on.
func (w *whole) add(a *Answer, off int64) error {
	defer a.Body.Close()
	var total int64 // -1: not known
	switch {
	case a.Header.Get("Content-Encoding") != "" && a.Header.Get("Content-Encoding") != "identity":
		return fmt.Errorf("unexpected answer: it is encoded as %.20q, which was not asked for", a.Header.Get("Content-Encoding"))
	case a.Status == http.StatusNotFound:
		return chunk.ErrNotFound
	case a.Status == http.StatusOK:
		w.Reset()
		total = a.Length()
	case a.Status == http.StatusPartialContent && off > 0:
		first, last, size, ok := parse(a.Header.Get("Content-Range"))
		if !ok || first != off || last+1 != size || a.Header.Get("ETag") != w.etag {
			w.Reset()
			return unexpected("Content-Range %.60q of %.60q, asked for all from %d on of %.60q",
				a.Header.Get("Content-Range"), a.Header.Get("ETag"), off, w.etag)
		}
		total = size
	default:
		w.Reset()
		return unexpected("status %d", a.Status)
	}
	if total > w.limit {
		return fmt.Errorf("%w: %d bytes, at most %d are allowed", errTooLarge, total, w.limit)
	}
	w.etag = a.Header.Get("ETag")
	if strings.HasPrefix(w.etag, "W/") {
		w.etag = ""
	}
	if total > 0 {
		w.Grow(int(min(total-int64(w.Len()), firstGrow)))
	}
	_, err := w.ReadFrom(io.LimitReader(a.Body, w.limit+1-int64(w.Len())))
	if got := int64(w.Len()); got > w.limit {
		return fmt.Errorf("%w: more than the %d bytes that are allowed", errTooLarge, w.limit)
	} else if err != nil || total >= 0 && got != total {
		return cut(int(got), int(total), err)
	}
	return nil
}

// fill reads until dst is full. Its error is the body's own: io.EOF if that has
// ended in order.
func fill(body io.Reader, dst []byte) (n int, err error) {
	for n < len(dst) && err == nil {
		var m int
		m, err = body.Read(dst[n:])
		n += m
	}
	if n == len(dst) {
		return n, nil
	}
	return n, err
}

// atEnd checks that a body has no more bytes; its connection can then be used
// again.
func atEnd(body io.Reader) error {
	var b [1]byte
	switch n, err := fill(body, b[:]); {
	case n > 0:
		return unexpected("more bytes than it says")
	case err != io.EOF:
		return retry.Again(fmt.Errorf("answer does not end: %w", err))
	}
	return nil
}

// cut is the error for a body that ended after got bytes instead of want.
func cut(got, want int, err error) error {
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return retry.Again(fmt.Errorf("answer cut short after %d bytes of %d: %w", got, want, err))
}

func unexpected(format string, args ...any) error {
	return retry.Again(fmt.Errorf("unexpected answer: "+format, args...))
}

// parse reads a Content-Range of a satisfied range. total is -1 if it is not
// given.
func parse(value string) (first, last, total int64, ok bool) {
	rest, ok := strings.CutPrefix(value, "bytes ")
	if !ok {
		return 0, 0, 0, false
	}
	span, size, ok1 := strings.Cut(rest, "/")
	from, to, ok2 := strings.Cut(span, "-")
	first, ok3 := number(from)
	last, ok4 := number(to)
	if total, ok = -1, true; size != "*" {
		total, ok = number(size)
		ok = ok && last < total
	}
	ok = ok && ok1 && ok2 && ok3 && ok4 && first <= last && last < math.MaxInt64
	return first, last, total, ok
}

// number reads decimal digits and nothing else.
func number(s string) (int64, bool) {
	n, err := strconv.ParseUint(s, 10, 63)
	return int64(n), err == nil
}

// ParseTotal returns the size that the answer to a request for a part gives the
// whole thing, or false.
func ParseTotal(contentRange string) (int64, bool) {
	if size, ok := strings.CutPrefix(contentRange, "bytes */"); ok {
		return number(size)
	}
	_, _, total, ok := parse(contentRange)
	return total, ok && total >= 0
}
