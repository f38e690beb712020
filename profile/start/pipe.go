package start

import "time"

// Bounds of what a Replay has under way, in stored bytes.
const (
	MinWindow   = 256 << 10
	FirstWindow = 512 << 10
	MaxWindow   = 16 << 20 // 1 Gbit/s for 128 ms
)

const (
	// growth is by how much a round has to be faster than all before it for the
	// window to be doubled again.
	growth = 1.5
	// lateness is how much longer than in the quickest round fetches take on a way
	// that is full.
	lateness = 1.5
	// gain is what is under way over what the way holds: the rest waits in its
	// queues, so that it never runs empty, and a read waits at most as long as
	// the way is.
	gain = 2
	// fading is what is left of the best rate after a round that was slower.
	fading = 0.9
)

// A pipe finds out how much to have under way: as much as fills the way to the store,
// which is its bandwidth times its delay, twice. Both are measured, round by round: the
// highest rate, and the shortest time that fetches took on average. First the window is
// doubled for as long as that makes rounds faster and not longer.
type pipe struct {
	window int64
	under  int64 // bytes asked for and not there

	delay time.Duration // of the quickest round; 0: there was none
	best  float64       // bytes a second
	full  bool          // doubling is over

	// A round is the time in which a window of bytes comes.
	begun   time.Time
	bytes   int64
	fetches int
	took    time.Duration // all of them
	starved bool          // there was not enough under way in it to tell
}

func newPipe(now time.Time) *pipe { return &pipe{window: FirstWindow, begun: now} }

// room reports whether n bytes may be asked for.
func (p *pipe) room(n int64) bool { return p.under == 0 || p.under+n <= p.window }

// ask says that n bytes are asked for.
func (p *pipe) ask(n int64) { p.under += n }

// starve says that the window is not what bounds what is under way.
func (p *pipe) starve() { p.starved = true }

// done says that a fetch for which n bytes were asked for is over: it took some time,
// and brought some bytes.
func (p *pipe) done(now time.Time, n, bytes int64, took time.Duration) {
	p.under -= n
	if bytes == 0 {
		return
	}
	p.fetches++
	p.took += took
	if p.bytes += bytes; p.bytes < p.window {
		return
	}
	mean := p.took / time.Duration(p.fetches)
	rate := float64(p.bytes) / max(now.Sub(p.begun), time.Microsecond).Seconds()
	if !p.starved || rate > p.best {
		p.round(rate, mean)
	}
	p.begun, p.bytes, p.fetches, p.took, p.starved = now, 0, 0, 0, false
}

// round sets the window after a round of that rate, whose fetches took so long.
func (p *pipe) round(rate float64, mean time.Duration) {
	if p.delay == 0 || mean < p.delay {
		p.delay = mean
	}
	p.full = p.full || rate < growth*p.best || mean.Seconds() > lateness*p.delay.Seconds()
	p.best = max(rate, fading*p.best)
	if p.full {
		p.window = int64(gain * p.best * p.delay.Seconds())
	} else {
		p.window *= 2
	}
	p.window = min(max(p.window, MinWindow), MaxWindow)
}
