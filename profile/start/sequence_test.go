package start

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rivuletfs/rivulet/disk"
)

// readAll touches all frames of the chunks at those positions, one after the other, after
// what is under way has come.
func readAll(s *Sequence, positions ...int) {
	for _, pos := range positions {
		for i := range s.frames(pos) {
			s.Touch(disk.Touch{Chunk: pos, Frame: i})
		}
		synctest.Wait()
		time.Sleep(time.Second)
	}
}

// TestSequence: reads that go on through chunks have those that follow brought, more the
// longer that goes on, and no others.
func TestSequence(t *testing.T) {
	for _, tt := range []struct {
		name string
		read []int
		want []int
	}{
		{"one chunk", []int{3}, nil},
		{"to and fro", []int{3, 9, 5, 1}, nil},
		{"on", []int{3, 4}, []int{5}},
		{"on and on", []int{3, 4, 5, 6}, []int{5, 6, 7, 8, 9}},
		{"two at once", []int{3, 10, 4, 11}, []int{5, 12}},
		{"to the end", []int{17, 18, 19}, []int{19}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &link{m: newMap(t, 20), delay: time.Millisecond, second: 1e9}
				s := NewSequence(l)
				ctx, cancel := context.WithCancel(t.Context())
				over := make(chan error, 1)
				go func() { over <- s.Run(ctx) }()
				readAll(s, tt.read...)
				cancel()
				if err := <-over; !errors.Is(err, context.Canceled) {
					t.Errorf("ended with %v", err)
				}
				slices.Sort(l.fetches)
				if !slices.Equal(l.fetches, tt.want) {
					t.Errorf("brought %v, want %v", l.fetches, tt.want)
				}
			})
		})
	}
}

// TestSequenceUseless: when what was brought is not read, nothing more is.
func TestSequenceUseless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &link{m: newMap(t, 1000), delay: time.Millisecond, second: 1e9}
		s := NewSequence(l)
		over := make(chan error, 1)
		go func() { over <- s.Run(t.Context()) }()
		for pos := 0; pos < 996; pos += 4 {
			readAll(s, pos, pos+1) // and never what follows
		}
		if err := <-over; !errors.Is(err, ErrUseless) {
			t.Errorf("ended with %v", err)
		}
		if n := len(l.fetches); n > 2*judgedFrames {
			t.Errorf("%d chunks were brought for nothing", n)
		}
	})
}
