package tokenbucket

import (
	"testing"
	"time"
)

func TestBucket(t *testing.T) {
	begun := time.Now()
	at := func(s float64) time.Time { return begun.Add(time.Duration(s * float64(time.Second))) }
	b := Bucket{PerSecond: 2, Burst: 4}
	wait := func(when, n float64, want time.Duration) {
		t.Helper()
		if got := b.Wait(at(when), n); got != want {
			t.Errorf("at %v s, %v tokens are there in %v, want %v", when, n, got, want)
		}
	}
	wait(0, 4, 0) // full at first
	wait(0, 5, 500*time.Millisecond)
	b.Take(at(0), 4)
	wait(0, 1, 500*time.Millisecond)
	wait(0.25, 1, 250*time.Millisecond)
	wait(0.5, 1, 0)
	b.Take(at(0.5), 3) // on credit
	wait(0.5, 1, 1500*time.Millisecond)
	b.Add(at(0.5), 3)
	wait(0.5, 1, 0)
	b.Add(at(0.5), 100) // no more than Burst
	b.Take(at(100), 4)
	wait(100, 1, 500*time.Millisecond)
	wait(99, 1, 500*time.Millisecond)     // a time that came late earns nothing,
	wait(100.25, 1, 250*time.Millisecond) // nor does what follows it earn more
	wait(100.5, 1, 0)
}

func TestBucketWithoutRate(t *testing.T) {
	var zero Bucket
	if got := zero.Wait(time.Now(), 1); got != Forever {
		t.Errorf("an empty bucket fills in %v, want never", got)
	}
	b := Bucket{PerSecond: 1e-12, Burst: 1}
	b.Take(time.Now(), 1)
	if got := b.Wait(time.Now(), 1); got != Forever {
		t.Errorf("a token in 30,000 years: %v, want never", got)
	}
}
