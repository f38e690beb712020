package host

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/pack"
	"github.com/rivuletfs/rivulet/profile"
	"github.com/rivuletfs/rivulet/profile/start"
)

// A ProfileUse says what is done about the start of a disk.
type ProfileUse string

// What can be done about a start. Of attachments that share a disk, the first one's
// counts.
const (
	ProfileOn     ProfileUse = "on"     // read ahead by the profile that there is, and record; "" is the same
	ProfileReplay ProfileUse = "replay" // read ahead
	ProfileRecord ProfileUse = "record" // record, however little is read
	ProfileOff    ProfileUse = "off"
)

// ProfileUses are all of them.
var ProfileUses = []ProfileUse{ProfileOn, ProfileReplay, ProfileRecord, ProfileOff}

func (u ProfileUse) check() error {
	switch u {
	case "", ProfileOn, ProfileReplay, ProfileRecord, ProfileOff:
		return nil
	}
	return SpecErrorf("attach: profile %.40q: want on, replay, record or off", u)
}

func (u ProfileUse) records() bool { return u != ProfileReplay && u != ProfileOff }
func (u ProfileUse) replays() bool { return u != ProfileRecord && u != ProfileOff }

const (
	// profileTime bounds asking for a profile; a start is mostly over by then.
	profileTime = 10 * time.Second
	// saveTime bounds keeping what a start has taught, and closeTime what is left of
	// that when the host is closed.
	saveTime  = 30 * time.Second
	closeTime = 5 * time.Second
	// aheadTime is how long memory keeps what was read ahead for a start that has not begun, as of a
	// disk that is mounted and lies idle, if it is near too: else the start would find nothing, and memory,
	// which is bounded, gives way to what is read.
	aheadTime = 2 * time.Minute
)

// A Start tells of a disk's start.
type Start struct {
	Workload string     `json:"workload,omitempty"`
	Profile  ProfileUse `json:"profile"`
	Over     bool       `json:"over"`
	Frames   int        `json:"frames"` // that it has read
	// Replay tells of what was read ahead of it; nil: nothing was, or not yet.
	Replay *Replay `json:"replay,omitempty"`
	// Kept is where what was recorded is: "origin" or "state"; empty: nowhere yet.
	Kept    string `json:"kept,omitempty"`
	Problem string `json:"problem,omitempty"` // the last thing that did not work
}

// A Replay tells of reading ahead by a profile.
type Replay struct {
	Starts    uint32 `json:"starts"`              // that the profile is made of
	Predicted bool   `json:"predicted,omitempty"` // that was none: the profile is predicted
	Planned   int    `json:"planned"`             // frames
	Fetched   int    `json:"fetched"`             // of them, those that were asked for so far
	Brought   int    `json:"brought"`             // of them, those that were lacking
	Bytes     int64  `json:"bytes"`               // stored bytes that came
	Budget    int64  `json:"budget"`              // bound of that
	Read      int    `json:"read"`                // frames that the start has read meanwhile
	Named     int    `json:"named"`               // of them, those that the profile has
	Running   bool   `json:"running"`             // it goes on
	Ended     string `json:"ended,omitempty"`     // why it ended before its time
	Unused    int64  `json:"unused"`              // frames that were brought and not read: waste, once the start is over
	// Delay is how long after the disk was opened the profile was there.
	Delay time.Duration `json:"delay_ns"`
}

// StartStats count what was done about starts.
type StartStats struct {
	Replayed  int64 // starts that were read ahead of
	Recorded  int64 // starts that were recorded to their end
	Published int64 // of them, those that went to the origin
	Kept      int64 // of them, those that went to the state folder
	Lost      int64 // of them, those that could be kept nowhere
	Wasted    int64 // frames that were brought ahead of starts, and not read by their end
}

type startCounters struct {
	replayed, recorded, published, kept, lost, wasted atomic.Int64
}

func (c *startCounters) stats() StartStats {
	return StartStats{
		Replayed: c.replayed.Load(), Recorded: c.recorded.Load(), Published: c.published.Load(),
		Kept: c.kept.Load(), Lost: c.lost.Load(), Wasted: c.wasted.Load(),
	}
}

// An asked is a profile that was asked for.
type asked struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when what follows is set
	p      *profile.Profile
	err    error
	pack   *pack.Ahead // the start pack, on its way; nil: none is wanted. Its disk closes it
}

// packAhead begins to fetch the start pack of an image and workload, beside its profile. A
// near store is asked for single frames, and a host cache for chunks, which it shares with
// other disks: then there is none, and it returns nil.
func (h *Host) packAhead(src *Source, image origin.Digest, workload string) *pack.Ahead {
	if src.Near || h.cfg.Cache != nil {
		return nil
	}
	var parts []origin.Digest
	var at origin.Store
	return pack.NewAhead(func(ctx context.Context) (n int, err error) {
		parts, at, err = src.View.StartPack(ctx, image, workload)
		return len(parts), err
	}, func(ctx context.Context, i int) ([]byte, error) {
		b, err := at.GetObject(ctx, parts[i], pack.MaxPartBytes)
		if err != nil {
			return nil, fmt.Errorf("start pack of image %v: part %d: %w", image, i, err)
		}
		return b, nil
	}, h.log)
}

// ask asks for the profile of an image and workload, beside what its caller goes on
// to ask for.
func (h *Host) ask(src *Source, image origin.Digest, workload string) *asked {
	ctx, cancel := context.WithTimeout(context.Background(), profileTime)
	a := &asked{cancel: cancel, done: make(chan struct{}), pack: h.packAhead(src, image, workload)}
	go func() {
		defer close(a.done)
		a.p, a.err = h.loadProfile(ctx, src, image, workload)
	}()
	return a
}

// end gives up what is still asked for.
func (a *asked) end() {
	if a != nil {
		a.cancel()
		<-a.done
	}
}

// loadProfile returns the origin's profile, with what only this host knows.
func (h *Host) loadProfile(ctx context.Context, src *Source, image origin.Digest, workload string) (*profile.Profile, error) {
	own, err := h.folder.readProfile(image, workload)
	if err != nil {
		h.log.Warn("a profile that was kept cannot be read", "image", image, "workload", workload, "err", err)
	}
	p, err := src.View.Profile(ctx, image, workload)
	switch {
	case own == nil:
		return p, err
	case err != nil:
		return own, nil
	}
	return profile.Merge(p, own)
}

// A starting is the start of a shared disk, from when it is opened.
type starting struct {
	h        *Host
	disk     *Disk
	sequence *start.Sequence     // what lies behind what is read, if there is no profile; nil: it is not asked for
	skip     func(chunk.ID) bool // what comes with the metadata object; nil: nothing does
	near     bool                // the origin is
	image    *Image
	use      ProfileUse
	recorder *start.Recorder
	workload string
	opened   time.Time

	replay  atomic.Pointer[start.Replay] // nil: none yet
	running atomic.Bool                  // the replay
	misses  misses                       // that no replay goes before
	fill    atomic.Pointer[start.Fill]   // of the disk, which follows where the start reads; nil: none
	far     chan struct{}                // closed when the start is over, or has read or waited for much
	quarter sync.Once                    // closes it
	ended   chan struct{}                // closed when its goroutines have

	mu      sync.Mutex // guards what follows
	over    bool
	marked  bool // somebody said that it is over
	drop    bool // what was recorded is not to be kept
	starts  uint32
	guessed bool // the profile is predicted
	delay   time.Duration
	ending  error
	unused  int64 // once it is over
	kept    string
	problem error
}

// watchStart begins to mind the start of a disk that was opened for spec, and that nobody
// has read yet. near is its origin's; a is the profile, nil if none is wanted.
func (h *Host) watchStart(d *Disk, image *Image, spec *Spec, near bool, a *asked) *starting {
	s := &starting{
		h: h, disk: d, skip: d.packed(), near: near, image: image, use: spec.Profile, workload: spec.Workload, opened: time.Now(),
		recorder: start.NewRecorder(image.Map.Digest(), spec.Workload, start.RecordOptions{}),
		far:      make(chan struct{}),
		ended:    make(chan struct{}),
	}
	if spec.Neighbours && !near {
		s.sequence = start.NewSequence(d.Disk)
	}
	s.disk.OnTouch(s.touch)
	go func() {
		defer close(s.ended)
		s.run(a)
	}()
	return s
}

func (s *starting) touch(t disk.Touch) {
	s.recorder.Touch(t)
	if r := s.replay.Load(); r != nil {
		r.Touch(t)
	} else if s.sequence != nil {
		s.sequence.Touch(t)
	}
	if f := s.fill.Load(); f != nil {
		f.Touch(t)
	}
	if touched, all := s.disk.Touched(); touched*fillShare >= all || !s.running.Load() && s.misses.touch(t) {
		s.getFar()
	}
}

func (s *starting) getFar() { s.quarter.Do(func() { close(s.far) }) }

// run reads ahead until the start is over, and then keeps what was recorded.
func (s *starting) run(a *asked) {
	ctx, cancel := context.WithCancel(context.Background())
	reading := make(chan struct{})
	go func() {
		defer close(reading)
		if a == nil {
			return
		}
		s.readAhead(ctx, a)
		if !s.near && s.h.cfg.Cache == nil {
			return
		}
		select {
		case <-time.After(aheadTime):
			s.disk.LetGo()
		case <-ctx.Done():
		}
	}()
	<-s.recorder.Over() // which end sees to
	cancel()
	<-reading
	a.end()
	s.disk.OnTouch(nil)
	s.disk.followed.Store(false)
	s.getFar()
	s.finish()
}

// readAhead reads ahead of the start by the profile that was asked for.
func (s *starting) readAhead(ctx context.Context, a *asked) {
	select {
	case <-a.done:
	case <-ctx.Done():
		return
	}
	if a.err != nil {
		if !errors.Is(a.err, chunk.ErrNotFound) {
			s.trouble("there is no profile to read ahead by", a.err)
		}
		if s.sequence != nil {
			err := s.sequence.Run(ctx)
			s.h.log.Debug("reading ahead without a profile is over", "image", s.image.Map.Digest(), "err", err)
		}
		return
	}
	if a.p.Predicted && s.near {
		return // a guess would gain next to nothing, and fill memory with what nobody may read
	}
	r, err := start.NewReplay(s.disk, a.p, start.ReplayOptions{Unread: s.h.unread(s.disk.Disk), Skip: s.skip})
	if err != nil {
		s.trouble("there is no profile to read ahead by", err)
		return
	}
	s.disk.follow(a.p.Headers)
	if a.pack != nil {
		var ids []chunk.ID
		for _, step := range a.p.Plan() {
			if id := s.image.Map.Chunk(int(step.Chunk)).ID; s.skip == nil || !s.skip(id) {
				ids = append(ids, id)
			}
		}
		a.pack.Cover(ids)
	}
	s.mu.Lock()
	s.starts, s.guessed, s.delay = a.p.Starts, a.p.Predicted, time.Since(s.opened)
	s.mu.Unlock()
	s.running.Store(true)
	s.h.starts.replayed.Add(1)
	s.replay.Store(r)
	err = r.Run(ctx)
	s.running.Store(false)
	s.mu.Lock()
	if !errors.Is(err, context.Canceled) {
		s.ending = err
	}
	s.mu.Unlock()
	if errors.Is(err, start.ErrFailing) {
		s.trouble("reading ahead was given up", err)
	}
}

// unread is how many frames may lie in memory unread: half of it, so that what is read
// finds room too.
func (h *Host) unread(d *disk.Disk) int {
	return int(max(1, h.memory/2>>d.Map().Info().FrameLog2))
}

// trouble notes what did not work. A start goes on without.
func (s *starting) trouble(what string, err error) {
	s.mu.Lock()
	s.problem = fmt.Errorf("%s: %w", what, err)
	s.mu.Unlock()
	s.h.log.Warn(what, "image", s.image.Map.Digest(), "workload", s.workload, "err", err)
}

// finish notes what the start came to, and has it kept.
func (s *starting) finish() {
	stats := s.disk.Stats()
	rec, ok := s.recorder.Recording()
	s.mu.Lock()
	s.over = true
	s.unused = stats.Ahead - stats.AheadUsed
	keep := ok && !s.drop && s.use.records() && (s.marked || s.use == ProfileRecord || len(rec.Touches) >= start.DefaultLeast)
	s.mu.Unlock()
	s.h.starts.wasted.Add(s.unused)
	s.disk.LetGo()
	if !keep {
		return
	}
	s.h.starts.recorded.Add(1)
	p := rec.Profile()
	p.AddHeaders(s.disk.headers(p)) // while there is a disk
	s.h.saving.Go(func() {
		kept, err := s.h.saveProfile(s.image, p)
		s.mu.Lock()
		s.kept = kept
		s.mu.Unlock()
		if err != nil {
			s.trouble("what the start has read is remembered nowhere", err)
		}
	})
}

// saveProfile keeps a profile at the origin, and if that cannot be written, or not now, in the
// state folder, for starts on this host.
func (h *Host) saveProfile(image *Image, p *profile.Profile) (where string, err error) {
	own, damaged := h.folder.readProfile(p.Image, p.Workload)
	if own != nil {
		if p, err = profile.Merge(own, p); err != nil {
			return "", err
		}
	}
	ctx, cancel := context.WithTimeout(h.saveCtx, saveTime)
	defer cancel()
	if err = h.profiles.allowed(time.Now()); err == nil {
		_, err = catalog.AddProfile(ctx, image.Store(), p)
	}
	if err == nil {
		h.starts.published.Add(1)
		if own != nil || damaged != nil {
			err = h.folder.dropProfile(p.Image, p.Workload)
		}
		return "origin", err
	}
	h.log.Debug("a profile is kept here, and not at the origin", "image", p.Image, "workload", p.Workload, "err", err)
	if h.folder == nil {
		h.starts.lost.Add(1)
		return "", err
	}
	if err = h.folder.writeProfile(p); err != nil {
		h.starts.lost.Add(1)
		return "", err
	}
	h.starts.kept.Add(1)
	return "state", nil
}

// mark ends the start: somebody knows that it is over.
func (s *starting) mark() {
	s.mu.Lock()
	s.marked = true
	s.mu.Unlock()
	s.recorder.Stop()
	<-s.ended
}

// cut says that what was recorded is of half a start: its process ends, and the disk goes
// on in the next one.
func (s *starting) cut() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop = true
}

// end ends the start with its disk, which is closed after that.
func (s *starting) end() {
	if s == nil {
		return
	}
	s.recorder.Stop()
	<-s.ended
}

// tell tells of the start; nil: it is not minded.
func (s *starting) tell() *Start {
	if s == nil {
		return nil
	}
	stats := s.disk.Stats()
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &Start{Workload: s.workload, Profile: s.use, Over: s.over, Kept: s.kept, Frames: s.recorder.Frames()}
	if t.Profile == "" {
		t.Profile = ProfileOn
	}
	if s.problem != nil {
		t.Problem = s.problem.Error()
	}
	if r := s.replay.Load(); r != nil {
		p := r.Progress()
		t.Replay = &Replay{
			Starts: s.starts, Predicted: s.guessed, Planned: p.Planned, Fetched: p.Fetched, Brought: p.Brought, Bytes: p.Bytes, Budget: p.Budget,
			Read: p.Read, Named: p.Named, Running: s.running.Load(), Unused: stats.Ahead - stats.AheadUsed, Delay: s.delay,
		}
		if s.over {
			t.Replay.Unused = s.unused
		}
		if s.ending != nil {
			t.Replay.Ended = s.ending.Error()
		}
	}
	return t
}

// Mark ends the start of an attachment's disk, and has what it read remembered. The
// error is ErrNotFound if there is no such attachment, and a SpecError if its start is
// not recorded, or over.
func (h *Host) Mark(id string) error {
	h.mu.Lock()
	a := h.attached[id]
	h.mu.Unlock()
	if a == nil {
		return fmt.Errorf("mark the start of %q: %w", id, ErrNotFound)
	}
	s := a.dev.disk.Load()
	switch {
	case s == nil || s.start == nil:
		return SpecErrorf("mark the start of %s: it is not recorded: it was attached with profile off, or before this agent was started", id)
	case s.start.tell().Over:
		return SpecErrorf("mark the start of %s: it is over", id)
	}
	s.start.mark()
	return nil
}
