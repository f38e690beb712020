package tier

import (
	"math/bits"
	"sync"
	"time"
)

// Tuning of what is learnt of latencies.
const (
	minSamples = 16   // below, nothing is known
	maxSamples = 1024 // then the past is halved, so that it is forgotten

	subBits   = 3 // 8 buckets for each power of two: at most 1/8 too high
	maxMicros = 1<<31 - 1
	buckets   = (31 - subBits + 1) << subBits
)

// sizeClasses is how many sizes of reads are told apart: a page takes less time
// than a chunk.
const sizeClasses = 3

// sizeClass returns the class of a read of so many bytes: up to 16 KiB, up to
// 128 KiB, more.
func sizeClass(bytes int) int {
	switch {
	case bytes <= 16<<10:
		return 0
	case bytes <= 128<<10:
		return 1
	}
	return 2
}

// latencies is a histogram of durations that forgets. The zero value is empty.
// Its methods may be called by any number of goroutines.
type latencies struct {
	mu     sync.Mutex
	total  uint32
	counts [buckets]uint32
}

// bucketOf returns the bucket of so many microseconds.
func bucketOf(micros uint64) int {
	micros = min(micros, maxMicros)
	shift := max(0, bits.Len64(micros)-subBits-1)
	return shift<<subBits + int(micros>>shift)
}

// upper returns the first duration that is above bucket i.
func upper(i int) time.Duration {
	shift := max(0, i>>subBits-1)
	return time.Duration(i-shift<<subBits+1) << shift * time.Microsecond
}

func (l *latencies) add(d time.Duration) {
	i := bucketOf(uint64(max(0, d.Microseconds())))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts[i]++
	if l.total++; l.total < maxSamples {
		return
	}
	l.total = 0
	for i := range l.counts {
		l.counts[i] /= 2
		l.total += l.counts[i]
	}
}

// quantile returns a duration that a share q of the latest reads took no longer
// than, at most an eighth too high; false while too little is known.
func (l *latencies) quantile(q float64) (time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total < minSamples {
		return 0, false
	}
	above := uint32(float64(l.total) * (1 - q)) // how many may have taken longer
	for i := buckets - 1; i >= 0; i-- {
		if l.counts[i] > above {
			return upper(i), true
		}
		above -= l.counts[i]
	}
	return 0, false
}
