package registry

import (
	"context"
	"io"
	"net/http"
)

// A hopeful sends what is asked of a registry before it is known how that wants
// credentials: without any, in the hope that it wants none. The answer counts if that
// comes true, and else the request is sent again. So where everybody may read, a far
// registry is asked one round trip sooner.
type hopeful struct {
	send  http.RoundTripper
	known chan struct{} // closed when the rest is known
	rt    http.RoundTripper
	open  bool // the registry wants no credentials, and there are none
	err   error
}

func newHopeful(send http.RoundTripper) *hopeful {
	return &hopeful{send: send, known: make(chan struct{})}
}

// settle tells how it is.
func (h *hopeful) settle(rt http.RoundTripper, open bool, err error) {
	h.rt, h.open, h.err = rt, open, err
	close(h.known)
}

// RoundTrip implements [http.RoundTripper].
func (h *hopeful) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		return h.wait(req)
	}
	type answer struct {
		resp *http.Response
		err  error
	}
	ctx, cancel := context.WithCancel(req.Context())
	early := make(chan answer, 1)
	go func() {
		first := req.Clone(ctx)
		first.Header.Set("User-Agent", userAgent)
		resp, err := h.send.RoundTrip(first)
		early <- answer{resp, err}
	}()
	select {
	case <-h.known:
	case <-ctx.Done():
	}
	if ctx.Err() == nil && h.err == nil && h.open {
		if a := <-early; a.err == nil {
			a.resp.Body = &cancelBody{a.resp.Body, cancel}
			return a.resp, nil
		}
		cancel()
		return h.rt.RoundTrip(req)
	}
	cancel()
	if a := <-early; a.err == nil {
		_ = a.resp.Body.Close()
	}
	return h.wait(req)
}

// wait sends a request when it is known how.
func (h *hopeful) wait(req *http.Request) (*http.Response, error) {
	select {
	case <-h.known:
	case <-req.Context().Done():
		return nil, context.Cause(req.Context())
	}
	if h.err != nil {
		return nil, h.err
	}
	return h.rt.RoundTrip(req)
}

// A cancelBody frees what its request holds when it is closed.
type cancelBody struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b *cancelBody) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}
