package link

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A countedConn counts how many are open.
type countedConn struct {
	net.Conn
	open *atomic.Int64
}

func (c *countedConn) Close() error {
	c.open.Add(-1)
	return nil
}

// TestSpares: who wants several connections waits for the first alone, and what is left over is closed.
func TestSpares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var open, dials atomic.Int64
		s := &spares{n: 3, dial: func(ctx context.Context, _, addr string) (net.Conn, error) {
			dials.Add(1)
			if addr == "away" {
				return nil, errors.New("away")
			}
			select {
			case <-time.After(time.Second):
				open.Add(1)
				return &countedConn{open: &open}, nil
			case <-ctx.Done():
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
		if open.Load() != 0 || len(s.free["tcpa"]) != 0 || len(s.free["tcpaway"]) != 0 {
			t.Errorf("%d are open, %v are kept", open.Load(), s.free)
		}
	})
}

// TestSparesAreBounded: with what is spare, there are no more connections than are allowed.
func TestSparesAreBounded(t *testing.T) {
	for _, tt := range []struct{ spare, connections, want int }{{0, 64, 1}, {3, 64, 4}, {3, 4, 4}, {3, 2, 2}, {3, 1, 1}} {
		synctest.Test(t, func(t *testing.T) {
			var open, dials atomic.Int64
			dial := withSpares(func(context.Context, string, string) (net.Conn, error) {
				dials.Add(1)
				open.Add(1)
				return &countedConn{open: &open}, nil
			}, &Options{Spare: tt.spare, Connections: tt.connections})
			if _, err := dial(t.Context(), "tcp", "a"); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if n := dials.Load(); n != int64(tt.want) {
				t.Errorf("%d spare of %d: %d were opened, want %d", tt.spare, tt.connections, n, tt.want)
			}
			time.Sleep(spareTime)
		})
	}
}
