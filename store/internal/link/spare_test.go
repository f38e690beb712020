package link

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A countedConn counts how many are open.
type countedConn struct {
	net.Conn
	open   *atomic.Int64
	closed func()
}

func (c *countedConn) Close() error {
	c.open.Add(-1)
	c.closed()
	return nil
}

// TestSpares: who wants several connections waits for the first alone, and what is left over is closed.
func TestSpares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var open, dials atomic.Int64
		s := &spares{n: 3, most: 64, dial: func(ctx context.Context, _, addr string, closed func()) (net.Conn, error) {
			dials.Add(1)
			if addr == "away" {
				closed()
				return nil, errors.New("away")
			}
			select {
			case <-time.After(time.Second):
				open.Add(1)
				return &countedConn{open: &open, closed: closed}, nil
			case <-ctx.Done():
				closed()
				return nil, ctx.Err()
			}
		}}
		begun := time.Now()
		take := func(want time.Duration) {
			t.Helper()
			c, err := s.take(t.Context(), "tcp", "a")
			if err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begun); took != want {
				t.Errorf("there after %v, want %v", took, want)
			}
			_ = c.Close()
		}
		take(time.Second)
		take(time.Second)
		synctest.Wait()
		if dials.Load() != 4 || open.Load() != 2 {
			t.Errorf("%d were opened, %d are open", dials.Load(), open.Load())
		}
		brief, cancel := context.WithCancel(t.Context())
		cancel()
		if c, err := s.take(brief, "tcp", "a"); err == nil { // it was there already
			_ = c.Close()
		}
		time.Sleep(spareTime)
		synctest.Wait()
		if open.Load() != 0 {
			t.Errorf("%d are open after their time", open.Load())
		}
		begun = time.Now()
		take(time.Second) // and more spares
		if _, err := s.take(t.Context(), "tcp", "away"); err == nil {
			t.Error("a server that is away")
		}
		if _, err := s.take(t.Context(), "tcp", "away"); err == nil {
			t.Error("a server that is away")
		}
		time.Sleep(2 * spareTime)
		synctest.Wait()
		if open.Load() != 0 || len(s.free) != 0 || len(s.live) != 0 {
			t.Errorf("%d are open, %v are kept, %v are counted", open.Load(), s.free, s.live)
		}
	})
}

// TestSparesAreBounded: with what is spare, there are no more connections than are allowed.
func TestSparesAreBounded(t *testing.T) {
	for _, tt := range []struct{ spare, connections, want int }{{0, 64, 1}, {3, 64, 4}, {3, 4, 4}, {3, 2, 2}, {3, 1, 1}} {
		synctest.Test(t, func(t *testing.T) {
			var open, dials atomic.Int64
			dial := withSpares(func(_ context.Context, _, _ string, closed func()) (net.Conn, error) {
				dials.Add(1)
				open.Add(1)
				return &countedConn{open: &open, closed: closed}, nil
			}, &Options{Spare: tt.spare, Connections: tt.connections})
			var all []net.Conn
			for range tt.want {
				c, err := dial(t.Context(), "tcp", "a")
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, c)
			}
			synctest.Wait()
			if n := dials.Load(); n != int64(tt.want) {
				t.Errorf("%d spare of %d: %d were opened, want %d", tt.spare, tt.connections, n, tt.want)
			}
			// One ends while all are in use, and another is wanted.
			_ = all[0].Close()
			if _, err := dial(t.Context(), "tcp", "a"); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if n := open.Load(); n > int64(tt.connections) {
				t.Errorf("%d spare of %d: %d are open", tt.spare, tt.connections, n)
			}
			time.Sleep(spareTime)
		})
	}
}

// TestSparesOfTLS: TLS has begun over spare connections before they are wanted, with whom it should.
func TestSparesOfTLS(t *testing.T) {
	const spare = 3
	begun := make(chan struct{}, 10)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.TLS = &tls.Config{VerifyConnection: func(tls.ConnectionState) error { begun <- struct{}{}; return nil }}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	known := server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	for _, roots := range []*x509.CertPool{known, x509.NewCertPool()} {
		transport, err := New(Options{Spare: spare})
		if err != nil {
			t.Fatal(err)
		}
		defer transport.CloseIdleConnections()
		transport.TLSClientConfig.RootCAs = roots
		resp, err := (&http.Client{Transport: transport}).Get(server.URL)
		if roots != known {
			if !Permanent(err) {
				t.Errorf("of a server that is not known: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if resp.ProtoMajor != 1 {
			t.Errorf("spoke %s", resp.Proto)
		}
		_ = resp.Body.Close()
		for range 1 + spare {
			select {
			case <-begun:
			case <-time.After(10 * time.Second):
				t.Fatal("TLS does not begin over a spare connection")
			}
		}
	}
}
