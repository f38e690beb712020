package host

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
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
	stop  func() // ends the daily marks and waits for that

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

// source opens an origin once.
func (h *Host) source(ctx context.Context, url string) (*Source, error) {
	h.mu.Lock()
	s := h.sources[url]
	h.mu.Unlock()
	if s != nil {
		return s, nil
	}
	opened, err := h.cfg.Open(ctx, url)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if s = h.sources[url]; s == nil {
		s = &opened
		h.sources[url] = s
	}
	return s, nil
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
	reader, err := h.reader(spec)
	if err != nil {
		return nil, err
	}
	who := strings.Join(spec.Identities, "\x00") + "\x00\x00" + strings.Join(spec.Required, "\x00")
	for {
		d, err := h.digest(ctx, src.View, spec.Image, who, spec.Store)
		if err != nil {
			return nil, fmt.Errorf("image %q: %w", spec.Image, err)
		}
		s, first := h.join(shareKey{spec.Store, d, who})
		if first {
			h.openShared(ctx, s, src, reader, spec.Image)
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
		if known {
			return d, nil
		}
	}
	return Lookup(ctx, v.Find, ref, h.cfg.Spellings)
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

// openShared opens s for all its users.
func (h *Host) openShared(ctx context.Context, s *sharedDisk, src *Source, r *Reader, ref string) {
	defer close(s.ready)
	image, err := r.Open(ctx, src.View, s.key.image.String(), true)
	if err == nil {
		s.Disk, err = h.stack.Disk(image, src.Near, src.Bound)
	}
	if err != nil {
		s.err = fmt.Errorf("image %q: %w", ref, err)
		return
	}
	keeping, stop := context.WithCancel(context.Background())
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		image.Keep(keeping)
	}()
	s.stop = func() { stop(); <-kept }
}

// release gives one use back; the last closes the disk.
func (h *Host) release(s *sharedDisk) {
	h.mu.Lock()
	s.users--
	last := s.users == 0
	if last && h.disks[s.key] == s {
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
	s.stop()
	if err := s.Close(); err != nil {
		h.log.Warn("disk not closed well", "image", s.key.image, "err", err)
	}
}
