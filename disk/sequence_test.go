package disk

import (
	"testing"
	"testing/synctest"

	"github.com/rivuletfs/rivulet/chunk"
)

// TestSequence goes through frames as reads do, and expects what is to be decoded ahead.
func TestSequence(t *testing.T) {
	type step struct{ first, last, ahead, asked int64 } // frames missed; behind last to ask for; of them, asked for
	for name, steps := range map[string][]step{
		"goes on": {
			{10, 10, 0, 0}, {11, 11, 2, 2}, {14, 15, 4, 4}, {20, 20, 8, 8}, {29, 29, 16, 16}, {46, 46, 16, 16},
		},
		"leaps over slack, and no further": {
			{10, 10, 0, 0}, {11 + streamGap, 11 + streamGap, 2, 2}, {1000, 1000, 0, 0}, {1001 + streamGap + 1, 1001 + streamGap + 1, 0, 0},
		},
		"comes to what is on its way": {
			{10, 10, 0, 0}, {11, 11, 2, 2}, {12, 12, 0, 0}, {13, 13, 0, 0}, {14, 14, 4, 4},
		},
		"asks again for what could not be had": {
			{10, 10, 0, 0}, {11, 11, 2, 0}, {12, 12, 4, 1}, {14, 14, 8, 8},
		},
		"two at once": {
			{10, 10, 0, 0}, {500, 500, 0, 0}, {11, 11, 2, 2}, {501, 501, 2, 2}, {14, 14, 4, 4}, {504, 504, 4, 4},
		},
		"goes back": {
			{100, 100, 0, 0}, {80, 80, 0, 0}, {60, 60, 0, 0},
		},
	} {
		var s sequence
		for i, st := range steps {
			number, ahead := s.missed(st.first, st.last)
			if ahead != st.ahead {
				t.Errorf("%s, step %d: %d frames ahead, want %d", name, i, ahead, st.ahead)
			}
			s.asked(number, st.last+1+st.asked)
		}
	}
	var s sequence
	for i := range int64(streams + 1) {
		s.missed(i*1000, i*1000)
	}
	if _, ahead := s.missed(1, 1); ahead != 0 {
		t.Error("the oldest stream was not forgotten")
	}
}

// TestGoOn reads a disk frame after frame, of which some chunks are in hand: most of their frames
// come before they are read, and nothing of others does.
func TestGoOn(t *testing.T) {
	im := newImage(t, 40, 91)
	synctest.Test(t, func(t *testing.T) {
		inHand := map[chunk.ID]bool{}
		for i := range im.m.Len() {
			inHand[im.m.Chunk(i).ID] = i%8 < 6
		}
		door := chunk.NewDoor(im.chunks)
		d := im.open(t, door, Options{Mode: SingleFrames, Near: &nearby{door: door, some: func(id chunk.ID) bool { return inHand[id] }}})
		var near, far int64 // fetches that reads of chunks in hand, and of others, waited for
		frames := 0
		for i := range im.m.Len() {
			c := im.m.Chunk(i)
			if d.byPage(&c) {
				continue
			}
			for f := range d.frames(&c) {
				before := d.Stats()
				n := min(frameSize, int(c.Size)-f*frameSize)
				im.check(t, d, int(c.Index)*chunkSize+f*frameSize, n)
				synctest.Wait() // what is ahead is there
				if after := d.Stats(); after.Misses == before.Misses {
					continue
				}
				if inHand[c.ID] {
					near++
				} else {
					far++
				}
			}
			if inHand[c.ID] {
				frames += d.frames(&c)
			}
		}
		s := d.Stats()
		if far == 0 || frames < 40 || near > int64(frames)/3 {
			t.Errorf("%d of %d frames in hand were waited for, and %d others", near, frames, far)
		}
		if s.Prefetches == 0 || s.Ahead != 0 || s.Touched != s.Near+int64(frames)+far {
			t.Errorf("%+v for %d frames in hand, %d waited for", s, frames, near)
		}
	})
}

// TestGoOnRandom reads one frame here and there: nothing else is decoded.
func TestGoOnRandom(t *testing.T) {
	im := newImage(t, 40, 92)
	synctest.Test(t, func(t *testing.T) {
		door := chunk.NewDoor(im.chunks)
		d := im.open(t, door, Options{Mode: SingleFrames, Near: &nearby{door: door, some: func(chunk.ID) bool { return true }}})
		for i := im.m.Len() - 1; i >= 0; i -= 2 {
			im.check(t, d, int(im.m.Chunk(i).Index)*chunkSize, 1)
		}
		synctest.Wait()
		if s := d.Stats(); s.Prefetches != 0 || s.Fetches != s.Misses {
			t.Errorf("%+v", s)
		}
	})
}
