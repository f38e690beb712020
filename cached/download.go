package cached

import (
	"context"
	"io"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/tier"
)

// startDownload has f's chunk downloaded, and reports whether there is a place
// for it. mu is held.
func (s *Server) startDownload(f *flight, r origin.Request, flow string) bool {
	place, ok := s.places.TryAcquire(f.priority.Priority(), 0)
	if !ok {
		return false
	}
	f.stage = fetching
	e := errand{server: s, flight: f, request: r}
	if !f.whole && s.zone == nil { // which keeps whole chunks, for the next host
		e.want, e.head = f.want, f.head
	}
	s.running.Add(1)
	go func() {
		defer s.running.Done()
		defer place.Release(0)
		s.bring(&e, flow)
	}()
	return true
}

// An errand is the download of a flight's chunk, or of some of its frames.
type errand struct {
	server  *Server
	flight  *flight
	request origin.Request
	want    chunk.Extract // 0: the chunk
	head    int64         // bytes of its header, probably; 0: not known
}

// bring downloads a chunk, or frames of it, in turn with those of other flows.
func (s *Server) bring(e *errand, flow string) {
	f := e.flight
	ctx, cancel := context.WithTimeout(tier.WithFlow(chunk.WithUrgency(s.done, f.priority), flow), downloadTime)
	defer cancel()
	in := &inflow{server: s, flight: f, stage: fetching}
	var err error
	if e.want != 0 {
		err = e.bringExtract(ctx, in)
	} else {
		err = e.get(ctx, e.request, in.begin)
	}
	if err = in.end(ctx, err); err == nil {
		return
	}
	s.stats.failedDownloads.Add(1)
	s.logger.Warn("host cache: download failed", "chunk", f.id, "err", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.stage == fetching {
		s.failed(f, err)
	}
}

// get sends r, which is the errand's or for a part of what that brings.
func (e *errand) get(ctx context.Context, r origin.Request, begin func(size int64) (io.Writer, error)) error {
	s, bytes := e.server, int(r.Length)
	if bytes == 0 {
		bytes = chunk.Size
	}
	grant, err := s.limit.Acquire(ctx, bytes)
	if err != nil {
		return err
	}
	s.asks(e.flight, chunk.Origin)
	var came meter
	begun := time.Now()
	s.stats.downloads.Add(1)
	err = s.download.Get(ctx, r, func(size int64) (io.Writer, error) {
		w, err := begin(size)
		came.Writer = w
		return &came, err
	})
	s.stats.download.Add(time.Since(begun), 1)
	s.stats.downloadEnds[tier.Classify(err)].Add(1)
	grant.Release(int(came.written))
	s.stats.downloadedBytes.Add(came.written)
	return err
}

// A meter counts what is written.
type meter struct {
	io.Writer
	written int64
}

// Write implements io.Writer.
func (m *meter) Write(p []byte) (int, error) {
	n, err := m.Writer.Write(p)
	m.written += int64(n)
	return n, err
}
