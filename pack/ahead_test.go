package pack

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
)

// twoParts are frames 1 and 2 of A and frame 0 of C, and then B.
func twoParts(t *testing.T) [][]byte {
	var first, second Builder
	add(t, &first, &chunkA, 1)
	add(t, &first, &chunkA, 2)
	add(t, &first, &chunkC, 0)
	addObject(t, &second, &chunkB)
	return [][]byte{first.Bytes(), second.Bytes()}
}

// coming are parts, each of which comes a while after it was asked for.
func coming(parts [][]byte, after time.Duration, err error) (func(context.Context) (int, error), func(context.Context, int) ([]byte, error)) {
	return func(context.Context) (int, error) { return len(parts), nil },
		func(ctx context.Context, i int) ([]byte, error) {
			select {
			case <-time.After(after * time.Duration(i+1)):
				return parts[i], err
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
}

// TestAhead: reads of chunks that the pack covers wait until their frames have come, and
// are answered out of it; others go on.
func TestAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := NewAhead(comingQuietly(twoParts(t), 100*time.Millisecond, nil))
		defer a.Close()
		src := &far{}
		r := a.Reader(src)
		begun := time.Now()
		read(t, r, &chunkB, 0, len(chunkB.Bytes))
		if n := src.asked.Load(); n != 1 || time.Since(begun) != 0 {
			t.Errorf("what is not covered: %d requests, after %v", n, time.Since(begun))
		}
		a.Cover([]chunk.ID{chunkA.ID, chunkB.ID, chunkC.ID})
		head := chunkA.Header.Len()
		read(t, r, &chunkA, 0, head)
		read(t, r, &chunkA, chunkA.Header.FrameOffset(1), int(chunkA.Header.FrameOffset(3)-chunkA.Header.FrameOffset(1)))
		if took := time.Since(begun); took != 100*time.Millisecond {
			t.Errorf("frames of the first part after %v", took)
		}
		read(t, r, &chunkA, chunkA.Header.FrameOffset(0), int(chunkA.Header.Frames[0].Len))
		if took, n := time.Since(begun), src.asked.Load(); took != 100*time.Millisecond || n != 2 {
			t.Errorf("a frame that was not packed: %d requests, after %v", n-1, took)
		}
		read(t, r, &chunkB, 0, len(chunkB.Bytes))
		if took := time.Since(begun); took != 200*time.Millisecond {
			t.Errorf("a chunk of the second part after %v", took)
		}
		if n := src.asked.Load(); n != 2 {
			t.Errorf("%d requests, want none for what is packed", n-2)
		}
		a.Ended(t.Context())
		if !a.Has(chunkA.ID) || a.Has(chunk.ID{}) || a.Bytes() == 0 {
			t.Errorf("has A %v, nothing %v, %d bytes", a.Has(chunkA.ID), a.Has(chunk.ID{}), a.Bytes())
		}
		// A frame that was read is memory's to keep, and one that was not packed the store's.
		read(t, r, &chunkA, chunkA.Header.FrameOffset(1), int(chunkA.Header.Frames[1].Len))
		read(t, r, &chunkC, chunkC.Header.FrameOffset(1), int(chunkC.Header.Frames[1].Len))
		read(t, r, &chunkC, 0, len(chunkC.Bytes))
		if n := src.asked.Load(); n != 5 {
			t.Errorf("%d requests, want 5", n)
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		if want := int64(chunkC.Header.Frames[0].Len); a.held != want {
			t.Errorf("%d bytes held, want %d", a.held, want)
		}
	})
}

// comingQuietly is coming, for NewAhead.
func comingQuietly(parts [][]byte, after time.Duration, err error) (func(context.Context) (int, error), func(context.Context, int) ([]byte, error), *slog.Logger) {
	n, get := coming(parts, after, err)
	return n, get, nil
}

// TestAheadFails: a pack that is not there, cannot be read, is damaged or does not come in
// time costs a read that waits for it a second at most, and is not an error.
func TestAheadFails(t *testing.T) {
	damaged := twoParts(t)
	damaged[0][len(damaged[0])-1] ^= 1
	for _, tt := range []struct {
		name  string
		parts [][]byte
		err   error
		after time.Duration
		waits time.Duration
	}{
		{name: "none", after: time.Millisecond},
		{name: "away", parts: twoParts(t), err: errors.New("away"), after: 10 * time.Millisecond, waits: 10 * time.Millisecond},
		{name: "damaged", parts: damaged, after: 10 * time.Millisecond, waits: 10 * time.Millisecond},
		{name: "late", parts: twoParts(t), after: time.Minute, waits: patience},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, get := coming(tt.parts, tt.after, tt.err)
				if tt.parts == nil {
					n = func(context.Context) (int, error) { return 0, chunk.ErrNotFound }
				}
				a := NewAhead(n, get, nil)
				defer a.Close()
				a.Cover([]chunk.ID{chunkA.ID})
				src := &far{}
				begun := time.Now()
				read(t, a.Reader(src), &chunkA, 0, len(chunkA.Bytes))
				if took := time.Since(begun); took != tt.waits || src.asked.Load() != 1 {
					t.Errorf("%d requests, after %v", src.asked.Load(), took)
				}
			})
		})
	}
}

// TestAheadCloses: Close ends what is under way, and readers go on.
func TestAheadCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := NewAhead(comingQuietly(twoParts(t), time.Hour, nil))
		a.Cover([]chunk.ID{chunkA.ID})
		src := &far{}
		done := make(chan struct{})
		go func() {
			defer close(done)
			read(t, a.Reader(src), &chunkA, 0, len(chunkA.Bytes))
		}()
		synctest.Wait()
		a.Close()
		<-done
		if a.Has(chunkA.ID) {
			t.Error("it has something after Close")
		}
	})
}
