package start

import "time"

// Bounds of what a Replay has under way, in stored bytes.
const (
	MinWindow   = 256 << 10
	FirstWindow = 1 << 20
	MaxWindow   = 16 << 20 // 1 Gbit/s for 128 ms
)

const (
	// growth is by how much a round has to be faster than all before it for the
	// window to be doubled again.
	growth = 1.25
	// flatRounds are how many rounds in a row without that end the doubling.
	flatRounds = 2
	// gain is what is under way over what the way holds: the rest waits in its
	// queues, so that it never runs empty, and a read waits at most as long as
	// the way is.
	gain = 2
	// fading is what is left of the best rate after a round that was slower.
	fading = 0.9
)

// A pipe finds out how much to have under way: as much as fills the way to the store,
// which is its bandwidth times its delay, twice. Both are measured, as BBR does: the
// shortest time that a fetch took, and the highest rate of a round. First the window is
// doubled for as long as that makes rounds faster.
type pipe struct {
	window int64
	under  int64 // bytes asked for and not there

	delay time.Duration // shortest of a fetch; 0: none was seen
	best  float64       // bytes a second
	flat  int           // rounds that were not faster, in a row; flatRounds: doubling is over

	// A round is the time in which a window of bytes comes.
	begun   time.Time
	bytes   int64
	starved bool // there was not enough under way in it to tell
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
	if p.delay == 0 || took < p.delay {
		p.delay = took
	}
	if p.bytes += bytes; p.bytes < p.window {
		return
	}
	passed, starved := now.Sub(p.begun), p.starved
	rate := float64(p.bytes) / max(passed, time.Microsecond).Seconds()
	p.begun, p.bytes, p.starved = now, 0, false
	switch {
	case starved && rate <= p.best:
		return
	case rate >= growth*p.best:
		p.flat = 0
	case p.flat < flatRounds:
		p.flat++
	}
	p.best = max(rate, fading*p.best)
	if p.flat < flatRounds {
		p.window *= 2
	} else {
		p.window = int64(gain * p.best * p.delay.Seconds())
	}
	p.window = min(max(p.window, MinWindow), MaxWindow)
}
