package origintest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/origin"
)

// testRequest tests the requests of a store that makes some.
func testRequest(t *testing.T, s origin.Store) {
	objects := chunktest.Fill(t, s)
	if _, err := s.Request(context.Background(), objects[0].ID); !errors.Is(err, origin.ErrNoRequest) {
		TestRequests(t, s, objects)
	}
}

// TestRequests sends the requests that s makes for these chunks, which it has, with
// nothing but what is in them, as another process would. Tests of stores that must
// make requests call it; TestStore, for those alone that do.
func TestRequests(t *testing.T, s origin.Requester, objects []chunktest.Object) {
	ctx := context.Background()
	for _, o := range objects {
		r, err := s.Request(ctx, o.ID)
		if err != nil {
			t.Fatalf("Request: %v", err)
		}
		if r.Length != 0 && r.Length != int64(len(o.Bytes)) {
			t.Errorf("Request has length %d, want %d", r.Length, len(o.Bytes))
		}
		if got := send(t, &r, int64(len(o.Bytes))); !bytes.Equal(got, o.Bytes) {
			t.Errorf("%v brings %d bytes, want the %d of the chunk", r, len(got), len(o.Bytes))
		}
		shown := fmt.Sprintf("%v %s %+v %#v %q %d", r, r, r, r, &r, r)
		for _, secret := range append(r.Header["Authorization"], r.URL) {
			if strings.Contains(shown, secret) {
				t.Errorf("a request shows a secret when it is printed")
			}
		}
	}
	if r, err := s.Request(ctx, chunktest.Absent); err == nil {
		if got := send(t, &r, 0); got != nil {
			t.Errorf("a request for an absent chunk brings %d bytes", len(got))
		}
	}
}

// send sends r and returns size bytes of what comes; nil if there is nothing. It
// tries again where a server that is made to misbehave does.
func send(t *testing.T, r *origin.Request, size int64) []byte {
	t.Helper()
	var err error
	for range 30 {
		var b []byte
		if b, err = sendOnce(r, size); err == nil {
			return b
		}
	}
	t.Fatalf("%v: %v", r, err)
	return nil
}

func sendOnce(r *origin.Request, size int64) ([]byte, error) {
	q, err := http.NewRequest(http.MethodGet, r.URL, nil)
	if err != nil {
		return nil, err
	}
	for k, v := range r.Header {
		q.Header[k] = v
	}
	q.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", r.Offset, r.Offset+max(size, 1)-1))
	a, err := http.DefaultClient.Do(q)
	if err != nil {
		return nil, err
	}
	defer func() { _ = a.Body.Close() }()
	switch a.StatusCode {
	case http.StatusNotFound:
		return nil, nil
	case http.StatusOK:
		if _, err := io.CopyN(io.Discard, a.Body, r.Offset); err != nil {
			return nil, err
		}
	case http.StatusPartialContent:
	default:
		return nil, fmt.Errorf("status %d", a.StatusCode)
	}
	b := make([]byte, size)
	_, err = io.ReadFull(a.Body, b)
	return b, err
}
