package cachedtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

// A Remote is an [Origin] as another process has it, by its address.
type Remote struct{ URL string }

// Request implements [origin.Requester].
func (r Remote) Request(_ context.Context, id chunk.ID) (origin.Request, error) {
	return origin.Request{URL: r.URL + "/" + id.String(), Header: http.Header{"Authorization": {"Bearer " + Secret}}}, nil
}

// Fetch implements [chunk.Source].
func (r Remote) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, r.URL+"/"+id.String(), nil)
	if err != nil {
		return 0, err
	}
	q.Header.Set("Authorization", "Bearer "+Secret)
	q.Header.Set("Range", fmt.Sprintf("bytes=%d-", off))
	a, err := http.DefaultClient.Do(q)
	if err != nil {
		return 0, err
	}
	defer func() { _ = a.Body.Close() }()
	switch a.StatusCode {
	case http.StatusPartialContent:
	case http.StatusRequestedRangeNotSatisfiable:
		return 0, nil
	case http.StatusNotFound:
		return 0, chunk.ErrNotFound
	default:
		return 0, fmt.Errorf("status %d", a.StatusCode)
	}
	n, err := io.ReadFull(a.Body, dst)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}
