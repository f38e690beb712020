package registry

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"

	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store/internal/byterange"
)

const (
	// pieceBytes is what a server sends at once over a connection that is new or was idle: ten packets (RFC
	// 6928), less an answer's header. Each doubling of that takes another round trip.
	pieceBytes = 13 << 10
	// pieces is over how many connections a blob comes.
	pieces = 5
)

// readPieces is readUnsized over several connections: the beginning of the blob at once, which is all of most, and
// what is behind that when it is known how much it is. Over one, a blob of 60 KiB takes three round trips.
func (c *client) readPieces(ctx context.Context, d origin.Digest, max int64) ([]byte, error) {
	b := make([]byte, min(pieces*pieceBytes, max))
	n, size, err := c.readSpan(ctx, d, 0, b)
	if err != nil {
		return nil, err
	}
	if n == len(b) && size != int64(n) {
		if size < int64(n) || size > max {
			return nil, fmt.Errorf("read blob %v: %d bytes, at most %d are allowed", d, size, max)
		}
		b = append(make([]byte, 0, size), b...)[:size]
		more, _, err := c.readSpan(ctx, d, int64(n), b[n:])
		if err != nil {
			return nil, err
		}
		n += more
	}
	return b[:n], d.Check(b[:n])
}

// readSpan reads what blob d has from off on into dst, in pieces. It returns how many bytes these have, and how many
// the registry says that the blob has; -1: it does not say so.
func (c *client) readSpan(ctx context.Context, d origin.Digest, off int64, dst []byte) (n int, size int64, err error) {
	step := max(pieceBytes, (len(dst)+pieces-1)/pieces)
	var all atomic.Int64
	err = each(ctx, (len(dst)+step-1)/step, func(ctx context.Context, i int) error {
		from := i * step
		got, total, err := c.readPiece(ctx, d, off+int64(from), dst[from:min(from+step, len(dst))])
		all.Add(int64(got))
		if i == 0 {
			size = total
		}
		return err
	})
	return int(all.Load()), size, err
}

// readPiece is readSpan by one request.
func (c *client) readPiece(ctx context.Context, d origin.Digest, off int64, dst []byte) (n int, size int64, err error) {
	err = c.do(ctx, &request{
		op: "read blob " + d.String(), method: http.MethodGet, url: c.url("blobs/%v", d), blob: d.String(),
		header: http.Header{"Range": {byterange.Header(off, len(dst))}}, awaits: int64(len(dst)),
		want: []int{http.StatusPartialContent, http.StatusOK, http.StatusRequestedRangeNotSatisfiable},
		read: func(resp *http.Response) (err error) {
			size = resp.ContentLength
			if resp.StatusCode != http.StatusOK {
				total, ok := byterange.ParseTotal(resp.Header.Get("Content-Range"))
				if size = total; !ok {
					size = -1
				}
			}
			n, err = byterange.Read(&byterange.Answer{Status: resp.StatusCode, Header: resp.Header, Body: resp.Body}, dst, off)
			return err
		},
	})
	return n, size, err
}
