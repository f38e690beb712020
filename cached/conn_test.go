package cached_test

import (
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/cached"
	"github.com/rivuletfs/rivulet/cached/cachedtest"
	"github.com/rivuletfs/rivulet/cached/internal/wire"
)

// TestViolations breaks the protocol in many ways: the daemon ends the
// connection, and goes on serving others.
func TestViolations(t *testing.T) {
	d := cachedtest.Start(t, nil)
	o := full(1)
	hello := func(k *talker) {
		k.send(wire.Hello, wire.Greeting{Version: wire.Version}.Append)
		k.wait(wire.Welcome)
	}
	for name, do := range map[string]func(k *talker){
		"no hello":        func(k *talker) { k.send(wire.Ping, nil) },
		"another version": func(k *talker) { k.send(wire.Hello, wire.Greeting{Version: 3}.Append) },
		"two hellos":      func(k *talker) { hello(k); k.send(wire.Hello, wire.Greeting{Version: wire.Version}.Append) },
		"nonsense":        func(k *talker) { _, _ = k.wire.Socket().Write([]byte("GET / HTTP/1.1\r\n\r\n")) },
		"an answer":       func(k *talker) { hello(k); _, _ = k.wire.Socket().Write(wire.Header{Type: wire.Done}.Append(nil)) },
		"a short request": func(k *talker) { hello(k); k.send(wire.Get, func(b []byte) []byte { return append(b, 1, 2, 3) }) },
		"too much at once": func(k *talker) {
			hello(k)
			for range cached.Outstanding + 2 {
				k.last++
				if k.wire.Write(wire.Get, k.last, (&wire.Want{ID: o.ID, WaitMillis: long}).Append, nil) != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := connect(t, d.Socket)
			do(k)
			_ = k.wire.Socket().SetReadDeadline(time.Now().Add(10 * time.Second))
			var err error
			for err == nil {
				var m wire.Message
				m, err = k.wire.Read()
				m.Close()
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the connection is still there")
			}
			talk(t, d.Socket).heard()
		})
	}
}

// TestCloseAnswers ends a daemon while clients wait and a download runs.
func TestCloseAnswers(t *testing.T) {
	o, other := full(1), full(2)
	d, origin := cachedtest.Start(t, nil), cachedtest.NewOrigin(t, o)
	letGo := half(origin)
	defer letGo()
	a, b := talk(t, d.Socket), talk(t, d.Socket)
	a.fetch(a.lease(o.ID), origin, o.ID)
	a.wait(wire.Done)
	b.get(o.ID, 0, 0, long)
	b.heard()
	a.lease(other.ID)
	d.Stop(t)
	if r := b.refusal(wire.Miss); r.Reason != wire.Closing {
		t.Errorf("%+v", r)
	}
	if _, err := b.wire.Read(); !errors.Is(err, io.EOF) {
		t.Errorf("after that: %v", err)
	}
}
