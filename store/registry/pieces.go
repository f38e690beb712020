package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store/internal/byterange"
	"github.com/rivuletfs/rivulet/store/internal/retry"
)

const (
	// pieceBytes is what a server sends at once over a connection that is new or was idle: ten packets (RFC
	// 6928), less an answer's header. Each doubling of that takes another round trip.
	pieceBytes = 13 << 10
	// pieces is over how many connections a blob comes.
	pieces = 5
)

// inPieces reports whether there are connections enough to read a blob in pieces.
func (o *Options) inPieces() bool {
	return o.Spare >= pieces-1 && (o.Connections == 0 || o.Connections >= pieces)
}

// readPieces is readUnsized over several connections: the beginning of the blob at once, which is all of most, and
// what is behind that when it is known how much it is. Over one, a blob of 60 KiB takes three round trips. The error
// is ErrNoRanges where all has to be asked for by one request.
func (c *client) readPieces(ctx context.Context, d origin.Digest, max int64) ([]byte, error) {
	b := make([]byte, min(pieces*pieceBytes, max))
	n, size, err := c.readSpan(ctx, d, 0, b)
	if err != nil {
		return nil, err
	}
	if n == len(b) && size != int64(n) {
		switch {
		case size < 0:
			return nil, fmt.Errorf("read blob %v: it has %d bytes or more, and the registry does not say how many", d, n)
		case size < int64(n) || size > max:
			return nil, fmt.Errorf("read blob %v: %d bytes, want %d to %d", d, size, n, max)
		}
		b = append(make([]byte, 0, size), b...)[:size]
		more, _, err := c.readSpan(ctx, d, int64(n), b[n:])
		if err != nil {
			return nil, err
		}
		n += more
	}
	if err := d.Check(b[:n]); err != nil {
		return nil, fmt.Errorf("read blob %v: %w", d, err)
	}
	return b[:n], nil
}

// readSpan reads what blob d has from off on into dst, in pieces. It returns how many bytes these have, and how many
// the registry says that the blob has; -1: it does not say so. Of a blob that ends before, it waits for the answers that
// there is no more too: a request that is cut costs its connection.
func (c *client) readSpan(ctx context.Context, d origin.Digest, off int64, dst []byte) (n int, size int64, err error) {
	step := max(pieceBytes, (len(dst)+pieces-1)/pieces)
	got := make([]int, (len(dst)+step-1)/step)
	err = each(ctx, len(got), func(ctx context.Context, i int) (err error) {
		from := i * step
		var total int64
		got[i], total, err = c.readPiece(ctx, d, off+int64(from), dst[from:min(from+step, len(dst))])
		if i == 0 {
			size = total
		}
		return err
	})
	for _, m := range got {
		n += m
	}
	return n, size, err
}

// readPiece is readSpan by one request. What an answer lacks is not asked for again: who needs the blob reads it by one
// request when its size is known.
func (c *client) readPiece(ctx context.Context, d origin.Digest, off int64, dst []byte) (n int, size int64, err error) {
	if c.noRanges.Load() {
		return 0, 0, fmt.Errorf("read blob %v: %w", d, ErrNoRanges)
	}
	err = c.do(ctx, &request{
		op: "read blob " + d.String(), method: http.MethodGet, url: c.url("blobs/%v", d), blob: d.String(),
		header: http.Header{"Range": {byterange.Header(off, len(dst))}}, awaits: int64(len(dst)),
		want: []int{http.StatusPartialContent, http.StatusOK, http.StatusRequestedRangeNotSatisfiable},
		read: func(resp *http.Response) (err error) {
			size = -1
			if resp.StatusCode == http.StatusOK {
				if size = resp.ContentLength; off > 0 || size > int64(len(dst)) {
					c.setNoRanges()
					return ErrNoRanges
				}
			} else if total, ok := byterange.ParseTotal(resp.Header.Get("Content-Range")); ok {
				size = total
			}
			n, err = byterange.Read(&byterange.Answer{Status: resp.StatusCode, Header: resp.Header, Body: resp.Body}, dst, off)
			var again *retry.Failure
			if errors.As(err, &again) {
				return again.Err
			}
			return err
		},
	})
	return n, size, err
}
