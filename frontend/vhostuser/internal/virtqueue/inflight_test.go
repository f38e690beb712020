package virtqueue

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestRecord stops a device after each store that it makes, and has another go on:
// nothing that was available is lost, and nothing that the driver has seen comes
// again.
func TestRecord(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		record := shared(t, InflightBytes(testSize))
		b := newBench(t, true, record)
		free, offered, taken := []uint16{}, map[uint16]bool{}, []uint16{}
		for i := range uint16(testSize) {
			free = append(free, i)
		}
		used := func() { // takes what comes back, each once
			for head, _, ok := b.d.Used(); ok; head, _, ok = b.d.Used() {
				if !offered[head] {
					t.Fatalf("head %d is used and was not offered, or is used twice", head)
				}
				delete(offered, head)
				free = append(free, head)
			}
		}
		var c Chain
		for range 60 {
			switch r.IntN(6) {
			case 0, 1:
				if len(free) > 0 {
					b.d.Set(int(free[0]), testGuest, 1, FlagWrite, 0)
					b.d.Offer(free[0])
					b.d.Publish()
					offered[free[0]] = true
					free = free[1:]
				}
			case 2:
				if b.next(t, &c) {
					if !offered[c.Head] || slices.Contains(taken, c.Head) {
						t.Fatalf("head %d was not offered, or is taken twice", c.Head)
					}
					taken = append(taken, c.Head)
				}
			case 3:
				if len(taken) > 0 {
					k := r.IntN(len(taken))
					b.q.Complete(taken[k], 1)
					taken = slices.Delete(taken, k, k+1)
				}
			case 4:
				b.q.Publish()
			case 5: // killed, maybe in Publish, between two of its stores
				if n := len(b.q.done); n > 0 && r.IntN(2) == 0 {
					cut := r.IntN(n + 1)
					b.q.published += uint16(n)
					b.q.storeUsed()
					for _, head := range b.q.done[:cut] {
						*b.q.record.flag(head) = 0
					}
				}
				b.open(t)
				taken = taken[:0]
			}
			used()
		}
		b.open(t)
		for b.next(t, &c) {
			b.q.Complete(c.Head, 1)
		}
		b.q.Publish()
		used()
		if len(offered) > 0 {
			t.Fatalf("lost: %v", offered)
		}
	}
}

func TestRecordOrder(t *testing.T) {
	record := shared(t, InflightBytes(testSize))
	b := newBench(t, false, record)
	var c Chain
	for _, head := range []uint16{5, 2, 9, 7} {
		b.d.Set(int(head), testGuest, 1, 0, 0)
		b.d.Offer(head)
	}
	b.d.Publish()
	for range 3 {
		b.next(t, &c)
	}
	b.q.Complete(2, 0)
	b.q.Publish()
	b.open(t)
	var got []uint16
	for b.next(t, &c) {
		got = append(got, c.Head)
	}
	if !slices.Equal(got, []uint16{5, 9, 7}) {
		t.Errorf("taken again: %v", got)
	}
}

// TestRecordOfAnotherSize is begun anew if nothing is in flight.
func TestRecordOfAnotherSize(t *testing.T) {
	b := newBench(t, false, shared(t, InflightBytes(2*testSize)))
	var c Chain
	b.d.Set(3, testGuest, 1, 0, 0)
	b.d.Offer(3)
	b.d.Publish()
	b.next(t, &c)
	smaller := b.config
	smaller.Size = testSize / 2
	if _, err := New(b.mem, smaller); err == nil {
		t.Error("a request in flight is lost without a word")
	}
	b.q.Complete(c.Head, 0)
	b.q.Publish()
	if _, err := New(b.mem, smaller); err != nil {
		t.Error(err)
	}
}
