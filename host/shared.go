package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/pack"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/sign"
)

// A Source is an origin as a host reads it.
type Source struct {
	View *generation.View
	Near bool // a request costs little, so that reading by the frame is best
	// Bound puts a bound of what is asked of this origin before it, for one of
	// several disks; nil: there is none.
	Bound func(src chunk.Source, disk string) chunk.Source
}

// bounded is image as one of this origin's.
func (s *Source) bounded(image *generation.Image) chunk.Source {
	if s.Bound == nil {
		return image
	}
	return s.Bound(image, image.Map.Digest().String())
}

// A shareKey says which attachments share a disk. Who reads is part of it: that
// one identity opens an image says nothing of another.
type shareKey struct {
	store string
	image origin.Digest
	who   string
}

// A sharedDisk is a disk that some attachments show.
type sharedDisk struct {
	*Disk
	key   shareKey
	ready chan struct{} // closed when Disk or err is set
	err   error
	kept  *Kept     // of it, for the next process
	claim *claiming // of its image; nil: it was opened without its origin
	late  *late     // its image, if it was opened without its origin; else nil
	start *starting // nil: it is not minded
	fill  *filling  // nil: it is not filled
	stop  func()    // ends the daily marks and waits for that

	users int // under Host.mu
}

// counted returns what the disk did, nothing while it is not open.
func (s *sharedDisk) counted() (stats disk.Stats) {
	select {
	case <-s.ready:
		if s.Disk != nil {
			stats = s.Stats()
		}
	default:
	}
	return stats
}

// A sourceSlot is the place of one origin.
type sourceSlot struct {
	turn   chan struct{} // holds one: whoever has it may open
	source atomic.Pointer[Source]
}

// source opens an origin once; of several who ask, one tries at a time.
func (h *Host) source(ctx context.Context, url string) (*Source, error) {
	h.mu.Lock()
	slot := h.sources[url]
	if slot == nil {
		slot = &sourceSlot{turn: make(chan struct{}, 1)}
		slot.turn <- struct{}{}
		h.sources[url] = slot
	}
	h.mu.Unlock()
	if s := slot.source.Load(); s != nil {
		return s, nil
	}
	select {
	case <-slot.turn:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { slot.turn <- struct{}{} }()
	if s := slot.source.Load(); s != nil {
		return s, nil
	}
	s, err := h.cfg.Open(ctx, url)
	if err != nil {
		return nil, err
	}
	slot.source.Store(&s)
	return &s, nil
}

func (h *Host) reader(spec *Spec) (*Reader, error) {
	r := &Reader{Spellings: h.cfg.Spellings, Identity: func(ctx context.Context) ([]seal.Unwrapper, error) {
		return h.cfg.Unwrappers(ctx, spec.Identities)
	}}
	for _, name := range spec.Required {
		k, err := sign.FindPublicKey(name)
		if err != nil {
			return nil, SpecError{err}
		}
		r.Required = append(r.Required, k)
	}
	return r, nil
}

// acquire returns the disk of spec's image with one user more: the one that
// others show already, if they do.
func (h *Host) acquire(ctx context.Context, spec *Spec) (*sharedDisk, error) {
	src, err := h.source(ctx, spec.Store)
	if err != nil {
		return nil, err
	}
	return h.share(ctx, spec, func(who string) (origin.Digest, error) {
		return h.digest(ctx, src.View, spec.Image, who, spec.Store)
	}, func(s *sharedDisk, reader *Reader) error {
		return h.openStarting(ctx, s, src, reader, spec)
	})
}

// reacquire is acquire of the very disk of a record. It does not need the origin
// if what was kept is enough.
func (h *Host) reacquire(ctx context.Context, r *record) (*sharedDisk, error) {
	return h.share(ctx, &r.Spec, func(string) (origin.Digest, error) {
		return origin.ParseDigest(r.Image)
	}, func(s *sharedDisk, reader *Reader) error {
		err := h.openKept(ctx, s, r, reader)
		if err == nil {
			h.beginFill(s, r.Spec.Fill) // the start is an earlier process's
		}
		if err == nil || ctx.Err() != nil {
			return err
		}
		if !errors.Is(err, fs.ErrNotExist) {
			h.log.Warn("what was kept does not open the image", "image", r.Image, "err", err)
		}
		src, err := h.source(ctx, r.Spec.Store)
		if err != nil {
			return err
		}
		if _, err = h.openFound(ctx, s, src, reader, nil); err == nil {
			h.beginFill(s, r.Spec.Fill)
		}
		return err
	})
}

// share returns the disk of what find finds with one user more. open opens it, if
// this is the first.
func (h *Host) share(ctx context.Context, spec *Spec, find func(who string) (origin.Digest, error), open func(*sharedDisk, *Reader) error) (*sharedDisk, error) {
	reader, err := h.reader(spec)
	if err != nil {
		return nil, err
	}
	who := strings.Join(spec.Identities, "\x00") + "\x00\x00" + strings.Join(spec.Required, "\x00")
	for {
		d, err := find(who)
		if err != nil {
			return nil, fmt.Errorf("image %q: %w", spec.Image, err)
		}
		s, first := h.join(shareKey{spec.Store, d, who})
		if first {
			if err := open(s, reader); err != nil {
				s.err = fmt.Errorf("image %q: %w", spec.Image, err)
			}
			close(s.ready)
		}
		select {
		case <-s.ready:
		case <-ctx.Done():
			h.release(s)
			return nil, context.Cause(ctx)
		}
		if s.err == nil {
			return s, nil
		}
		h.release(s)
		if !first && ctx.Err() == nil && errors.Is(s.err, context.Canceled) {
			continue // whoever opened it gave up, which is not our affair
		}
		return nil, s.err
	}
}

// digest returns the block map that ref means.
func (h *Host) digest(ctx context.Context, v *generation.View, ref, who, store string) (origin.Digest, error) {
	if d, ok := catalog.ParseRef(ref); ok {
		h.mu.Lock()
		known := h.disks[shareKey{store, d, who}] != nil
		h.mu.Unlock()
		if known || h.recent.has(sought{store, d.String()}) {
			return d, nil
		}
	}
	return h.looks.find(ctx, sought{store, ref}, func(ctx context.Context) (origin.Digest, error) {
		return Lookup(ctx, v.Find, ref, h.cfg.Spellings)
	})
}

// join makes the caller a user of the disk of key. The first is to open it.
func (h *Host) join(key shareKey) (s *sharedDisk, first bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s = h.disks[key]; s == nil {
		s = &sharedDisk{key: key, ready: make(chan struct{})}
		h.disks[key] = s
		first = true
	}
	s.users++
	return s, first
}

// openStarting is openFound of what is about to be started, as spec says. The profile
// of its starts is asked for meanwhile, and not waited for.
func (h *Host) openStarting(ctx context.Context, s *sharedDisk, src *Source, r *Reader, spec *Spec) error {
	var a *asked
	if spec.Profile.replays() {
		a = h.ask(src, s.key.image, spec.Workload)
	}
	var ahead *pack.Ahead
	if a != nil {
		ahead = a.pack
	}
	image, err := h.openFound(ctx, s, src, r, ahead)
	if err != nil || spec.Profile == ProfileOff && spec.Fill == nil {
		a.end()
		return err
	}
	s.start = h.watchStart(s.Disk, image, spec, src.Near, a)
	h.beginFill(s, spec.Fill)
	return nil
}

// openFound opens the disk of s, as it is found at its origin. It takes over ahead, the
// image's start pack; nil: none is wanted.
func (h *Host) openFound(ctx context.Context, s *sharedDisk, src *Source, r *Reader, ahead *pack.Ahead) (*Image, error) {
	claim := claim(src.View, s.key.image)
	image, metadata, err := h.openPacked(ctx, src, r, s.key.image, claim)
	if err != nil {
		claim.end()
		if ahead != nil {
			ahead.Close()
		}
		return nil, err
	}
	s.kept = &Kept{Near: src.Near, Attachments: image.attachments}
	if s.Disk, err = h.stack.disk(image.Unlocked, image, metadata, ahead, src.Near, src.Bound); err != nil {
		claim.end()
		return nil, err
	}
	s.claim = claim
	s.keep(func(ctx context.Context) {
		_ = claim.wait(ctx) // Attach is told
		image.Keep(ctx)
	})
	return image, nil
}

// openKept opens the disk of s from what a record kept of it; its origin is found
// meanwhile.
func (h *Host) openKept(ctx context.Context, s *sharedDisk, r *record, reader *Reader) error {
	m, err := readKept(ctx, h.cfg.State, r, reader)
	if err != nil {
		return err
	}
	image := h.lateImage(m, r.Spec.Store)
	if s.Disk, err = h.stack.disk(m, image, nil, nil, r.Kept.Near, nil); err != nil {
		return err
	}
	s.kept, s.late = r.Kept, image
	s.keep(func(ctx context.Context) {
		image.keep(ctx, h.cfg.RetryMin, h.cfg.RetryMax, func(err error, again time.Duration) {
			h.log.Warn("origin is away; what is at hand is served", "image", r.Image, "store", r.Spec.Store, "err", err, "again", again)
		})
	})
	return nil
}

// away is why the origin has not been found yet; nil: it has, or nothing is known.
func (s *sharedDisk) away() error {
	if s.late == nil {
		return nil
	}
	return s.late.problem()
}

// keep has fn keep the image in use, until the disk is closed.
func (s *sharedDisk) keep(fn func(context.Context)) {
	keeping, stop := context.WithCancel(context.Background())
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		fn(keeping)
	}()
	s.stop = func() { stop(); <-kept }
}

// release gives one use back; the last closes the disk.
func (h *Host) release(s *sharedDisk) {
	h.mu.Lock()
	s.users--
	last := s.users == 0
	if last && h.disks[s.key] == s { // else settled saw to it
		delete(h.disks, s.key)
		h.gone.disks.Add(s.counted())
	}
	h.mu.Unlock()
	if !last {
		return
	}
	<-s.ready
	if s.Disk == nil {
		return
	}
	s.fill.end()
	s.start.end()
	s.claim.end()
	s.stop()
	if err := s.Close(); err != nil {
		h.log.Warn("disk not closed well", "image", s.key.image, "err", err)
	}
}
