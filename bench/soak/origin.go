package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store/cache"
)

// frameSize is that of the chunks, in bytes.
const frameSize = 16 << 10

// A piece is a chunk that the origin has: all but its bytes, which are made when
// somebody wants them.
type piece struct {
	id     chunk.ID
	header chunk.Header
	size   int // of the plaintext
	cost   int64
}

func object(n int32, size int) chunktest.Object {
	return chunktest.Random(uint64(n), size, frameSize)
}

// An origins is an HTTP server with chunks without end.
type origins struct {
	server   *http.Server
	url      string
	wg       sync.WaitGroup
	requests atomic.Int64 // for chunks

	mu     sync.Mutex
	pieces []piece
	number map[chunk.ID]int32
}

func newOrigin() (*origins, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	o := &origins{url: "http://" + l.Addr().String(), number: make(map[chunk.ID]int32)}
	o.server = &http.Server{Handler: o, ReadHeaderTimeout: time.Minute}
	o.wg.Go(func() { _ = o.server.Serve(l) })
	return o, nil
}

func (o *origins) close() {
	_ = o.server.Close()
	o.wg.Wait()
}

// make adds a chunk of 16 to 128 KiB and returns its number. One call at a time.
func (o *origins) make(rng *rand.Rand) int32 {
	o.mu.Lock()
	n := int32(len(o.pieces))
	o.mu.Unlock()
	size := frameSize * (1 + rng.IntN(8))
	c := object(n, size)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.pieces = append(o.pieces, piece{c.ID, c.Header, size, cache.Cost(int64(len(c.Bytes)))})
	o.number[c.ID] = n
	return n
}

func (o *origins) piece(n int32) piece {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.pieces[n]
}

// bytes returns the object of a chunk.
func (o *origins) bytes(n int32) []byte {
	o.requests.Add(1)
	return object(n, o.piece(n).size).Bytes
}

// ServeHTTP serves chunk N at /N.
func (o *origins) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.ParseInt(strings.TrimPrefix(r.URL.Path, "/"), 10, 32)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(o.bytes(int32(n))))
}

// Request implements origin.Requester.
func (o *origins) Request(_ context.Context, id chunk.ID) (origin.Request, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return origin.Request{URL: fmt.Sprintf("%s/%d", o.url, o.number[id])}, nil
}

// Fetch implements chunk.Source.
func (o *origins) Fetch(_ context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	o.mu.Lock()
	n, ok := o.number[id]
	o.mu.Unlock()
	if !ok {
		return 0, fmt.Errorf("%v: %w", id, chunk.ErrNotFound)
	}
	b := o.bytes(n)
	return copy(dst, b[min(off, int64(len(b))):]), nil
}
