package origin

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// counted answers after a second, with how often it was asked before.
type counted struct {
	Pointers
	asked int
}

func (c *counted) GetPointer(ctx context.Context, name string) ([]byte, error) {
	n := c.asked
	c.asked++
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-time.After(time.Second):
	}
	return fmt.Append(nil, name, n), nil
}

func TestAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		from := &counted{}
		a := ReadAhead(ctx, from, "x")
		synctest.Wait()
		for _, want := range []struct{ name, value string }{{"y", "y1"}, {"x", "x0"}, {"x", "x2"}} {
			if v, err := a.GetPointer(ctx, want.name); string(v) != want.value || err != nil {
				t.Errorf("%s is %q, %v; want %q", want.name, v, err, want.value)
			}
		}
		a.Close()
		a = ReadAhead(ctx, from, "x")
		synctest.Wait()
		gone, cancel := context.WithCancel(ctx)
		cancel()
		if _, err := a.GetPointer(gone, "x"); !errors.Is(err, context.Canceled) {
			t.Errorf("without waiting: %v", err)
		}
		begin := time.Now()
		a.Close()
		if took := time.Since(begin); took != 0 {
			t.Errorf("closed after %v: the read was waited for", took)
		}
	})
}
