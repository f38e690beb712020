package start

import (
	"time"

	"github.com/rivuletfs/rivulet/chunk"
)

// Bounds of what a Replay has under way, in stored bytes.
const (
	MinWindow   = 256 << 10
	FirstWindow = 4 << 20  // 1 Gbit/s for 32 ms
	MaxWindow   = 16 << 20 // 1 Gbit/s for 128 ms
)

const (
	// widening is by how much the window grows for each byte that comes, at first.
	widening = 2
	// growth is by how much a round has to be faster than all before it for the
	// window to grow on.
	growth = 1.5
	// lateness is how much longer than in the quickest round fetches take on a way
	// that is full.
	lateness = 1.5
	// replayGain is what a Replay has under way over what the way holds: the rest waits
	// in its queues, so that it never runs empty, and a read waits at most as long as
	// the way is. fillGain is that of a Fill, for which nobody waits: half as long.
	replayGain = 2
	fillGain   = 1.5
	// fading is what is left of the best rate after a round that was slower.
	fading = 0.9
)

// A pipe finds out how much to have under way: as much as fills the way to the store,
// which is its bandwidth times its delay, and a gain. Both are measured, round by round: the
// highest rate, and the shortest time that fetches took on average. First the window
// grows by twice what comes, so that it triples with each delay, for as long as that makes
// rounds faster and fetches not longer.
type pipe struct {
	gain   float64
	floor  int64 // of the window
	window int64
	under  int64 // bytes asked for and not there

	from  chunk.Tier    // the furthest tier; what follows is of the way there
	delay time.Duration // of the quickest round; 0: there was none
	best  float64       // bytes a second
	least time.Duration // of the quickest fetch; 0: there was none
	full  bool          // growing by what comes is over

	// A round is the time in which a window of bytes comes, as it was at its begin.
	begun   time.Time
	size    int64
	bytes   int64
	fetches int
	took    time.Duration // all of them
	starved bool          // there was not enough under way in it to tell
}

func newPipe(now time.Time, gain float64, floor, first int64) *pipe {
	return &pipe{gain: gain, floor: floor, window: first, size: first, begun: now}
}

// room reports whether n bytes may be asked for.
func (p *pipe) room(n int64) bool { return p.under == 0 || p.under+n <= p.window }

// lane reports whether n bytes may be asked for with nothing waiting in the queues of a way
// that is known: what is under way is what the way holds.
func (p *pipe) lane(n int64) bool {
	return p.under == 0 || !p.full || p.under+n <= max(MinWindow, int64(p.best*p.delay.Seconds()))
}

// ask says that n bytes are asked for.
func (p *pipe) ask(n int64) { p.under += n }

// starve says that the window is not what bounds what is under way.
func (p *pipe) starve() { p.starved = true }

// done says that a fetch for which n bytes were asked for is over: it took some time,
// and brought some bytes, from a tier. What comes from nearer than the furthest tier tells
// nothing of the way there.
func (p *pipe) done(now time.Time, n, bytes int64, took time.Duration, from chunk.Tier) {
	p.under -= n
	if bytes == 0 || from < p.from {
		return
	}
	if from > p.from {
		*p = pipe{gain: p.gain, floor: p.floor, window: p.window, under: p.under, from: from, begun: now.Add(-took), size: p.window}
	}
	p.fetches++
	p.took += took
	if p.least == 0 || took < p.least {
		p.least = took
	}
	if !p.full && took.Seconds() <= lateness*p.least.Seconds() {
		p.window = min(p.window+widening*bytes, MaxWindow)
	}
	if p.bytes += bytes; p.bytes < p.size {
		return
	}
	mean := p.took / time.Duration(p.fetches)
	rate := float64(p.bytes) / max(now.Sub(p.begun), time.Microsecond).Seconds()
	if !p.starved || rate > p.best {
		p.round(rate, mean)
	}
	p.begun, p.size, p.bytes, p.fetches, p.took, p.starved = now, p.window, 0, 0, 0, false
}

// round sets the window after a round of that rate, whose fetches took so long.
func (p *pipe) round(rate float64, mean time.Duration) {
	if p.delay == 0 || mean < p.delay {
		p.delay = mean
	}
	p.full = p.full || rate < growth*p.best || mean.Seconds() > lateness*p.delay.Seconds()
	p.best = max(rate, fading*p.best)
	if p.full {
		p.window = min(max(int64(p.gain*p.best*p.delay.Seconds()), p.floor), MaxWindow)
	}
}
