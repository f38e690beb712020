package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/host/keep"
	"github.com/rivuletfs/rivulet/internal/scratch"
	"github.com/rivuletfs/rivulet/seal"
)

// Defaults of a Config.
const (
	DefaultRetryMin = time.Second
	DefaultRetryMax = time.Minute
)

// A Config is what a Host works with. Open, Unwrappers and Frontends must be set.
type Config struct {
	// Open opens the origin at a URL. It is called until it succeeds, once at a time
	// for each.
	Open func(ctx context.Context, url string) (Source, error)
	// Unwrappers returns the identities with these names, as Spec has them.
	Unwrappers func(ctx context.Context, names []string) ([]seal.Unwrapper, error)
	// Spellings returns what else an image may be called; nil: nothing.
	Spellings func(ref string) []string
	// Frontends are the ways to offer disks, by name.
	Frontends map[string]Frontend
	// State is the folder of the attachments' files, made if need be. Empty: they
	// end with the process.
	State string
	// Memory bounds what is kept decoded, for all disks together, in bytes: 0 is
	// disk.DefaultMemory.
	Memory int64
	// Cache and Sample are those of a Stack.
	Cache  Cache
	Sample float64
	// OwnProfiles keeps what starts have taught on this host; else it is published, where the
	// origin can be written, ProfilesPerHour times at most (0: the default).
	OwnProfiles     bool
	ProfilesPerHour int
	// OnSlow and Slow are those of disk.Options, for all disks. SlowRead.Reader is the
	// ID of the attachment.
	OnSlow func(*disk.SlowRead)
	Slow   time.Duration
	// Commit, if set, is called by Recover when all is offered and no client has
	// been let in: until it returns nil, another process can still go on with
	// everything.
	Commit func() error
	// Quiet, if set, is called whenever nothing has been attached or detached for some
	// seconds, also after New. Close waits for it.
	Quiet func()
	// RetryMin and RetryMax bound the pauses between attempts to bring back an
	// attachment; 0: the defaults.
	RetryMin, RetryMax time.Duration
	Logger             *slog.Logger // nil: nobody
}

// A Host attaches images. All methods may be called at any time, from any
// goroutine.
type Host struct {
	cfg    Config
	log    *slog.Logger
	stack  Stack
	folder *folder // nil: nothing is kept; set by Recover

	gate   sync.RWMutex // see the package comment
	closed bool         // under gate: no Attach, no Detach
	ending interruption // of what holds up Release
	lull   lull
	looks  rounds
	recent recentlyFound
	soon   soon

	profiles *publishing

	memory  int64 // bound of what is kept decoded, in bytes
	starts  startCounters
	saving  sync.WaitGroup  // keeping what starts have taught
	saveCtx context.Context // of that; ends after Close
	saved   context.CancelFunc
	ended   sync.WaitGroup // attachments whose end is under way

	mu       sync.Mutex // guards what follows
	sources  map[string]*sourceSlot
	disks    map[shareKey]*sharedDisk
	attached map[string]*attachment
	leaving  map[string]*attachment // whose end is under way, and which are not attached any more
	gone     gone
	scratch  *scratch.Folder // of what ends with this process; nil: nothing has
}

// New returns a host with nothing attached. Recover must be called first where
// Config.State is set. The caller closes it.
func New(cfg Config) (*Host, error) {
	h := &Host{
		cfg: cfg, log: cfg.Logger,
		profiles: newPublishing(cfg.OwnProfiles, cfg.ProfilesPerHour),
		sources:  make(map[string]*sourceSlot),
		disks:    make(map[shareKey]*sharedDisk),
		attached: make(map[string]*attachment),
		leaving:  make(map[string]*attachment),
		closed:   cfg.State != "",
		gone:     gone{served: make(map[ServedKey]Served), images: make(map[string]bool)},
	}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	if h.cfg.RetryMin == 0 {
		h.cfg.RetryMin = DefaultRetryMin
	}
	if h.cfg.RetryMax == 0 {
		h.cfg.RetryMax = DefaultRetryMax
	}
	if cfg.Memory == 0 {
		cfg.Memory = disk.DefaultMemory
	}
	if h.cfg.Slow == 0 {
		h.cfg.Slow = disk.DefaultSlow
	}
	opener, err := seal.NewOpener()
	if err != nil {
		return nil, err
	}
	h.memory = cfg.Memory
	h.saveCtx, h.saved = context.WithCancel(context.Background())
	h.stack = Stack{Memory: disk.NewMemory(cfg.Memory), Opener: opener, Cache: cfg.Cache, Sample: cfg.Sample, Meter: new(disk.Meter), Logger: cfg.Logger, OnSlow: h.onSlow, Slow: h.cfg.Slow}
	h.lull.fn, h.lull.after = cfg.Quiet, quietTime
	h.lull.stir()
	return h, nil
}

// attachGrace is how long Release waits for an Attach or a Detach that runs, before it
// cancels it.
const attachGrace = 5 * time.Second

// An interruption ends the contexts of what is under way.
type interruption struct {
	mu      sync.Mutex
	cancels map[*context.CancelCauseFunc]struct{}
	begun   bool
}

// context returns one that ends with ErrClosed when the interruption begins, and what
// says that it is not needed any more.
func (i *interruption) context(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.begun {
		cancel(ErrClosed)
	}
	if i.cancels == nil {
		i.cancels = make(map[*context.CancelCauseFunc]struct{})
	}
	i.cancels[&cancel] = struct{}{}
	return ctx, func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		delete(i.cancels, &cancel)
		cancel(nil)
	}
}

func (i *interruption) begin() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.begun = true
	for cancel := range i.cancels {
		(*cancel)(ErrClosed)
	}
}

func (i *interruption) over() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.begun = false
}

// Release ends serving and leaves every attachment as it is for the next
// process; see Frontend. It returns the descriptors, the caller's. After it the
// host can be closed, or go on by Resume.
func (h *Host) Release(ctx context.Context) ([]keep.Descriptor, error) {
	enough := time.AfterFunc(attachGrace, h.ending.begin)
	h.gate.Lock()
	enough.Stop()
	h.ending.over()
	defer h.gate.Unlock()
	if h.closed {
		return nil, ErrClosed
	}
	h.closed = true
	for _, a := range h.all() {
		h.rest(a)
		a.dev.leave()
	}
	var mu sync.Mutex
	var all []keep.Descriptor
	var g errgroup.Group
	for name, f := range h.cfg.Frontends {
		g.Go(func() error {
			list, err := f.Release(ctx)
			mu.Lock()
			all = append(all, list...)
			mu.Unlock()
			if err != nil {
				return fmt.Errorf("release %s: %w", name, err)
			}
			return nil
		})
	}
	err := g.Wait()
	// Nobody writes any more. The next process opens the overlays as they are left.
	for _, a := range h.all() {
		err = errors.Join(err, a.over.end(h.folder == nil && !a.keeps()))
	}
	if h.folder != nil {
		lock, lockErr := h.folder.descriptor()
		if lockErr == nil {
			all = append(all, lock)
		}
		err = errors.Join(err, lockErr)
	}
	return all, err
}

// Resume goes on after a Release, with the descriptors that it returned.
func (h *Host) Resume(ctx context.Context, in *keep.Inherited) error {
	if lock, ok := in.Take(lockName); ok {
		_ = lock.File.Close() // the folder has it still
	}
	h.gate.Lock()
	h.closed = false
	for _, a := range h.all() {
		a.dev.stay()
	}
	h.gate.Unlock()
	h.offerAll(ctx, h.all(), in)
	return h.begin()
}

// Close ends what Release has left: nothing is served any more, and attachments
// stay in the state folder. Without a Release before, it releases first.
func (h *Host) Close() error {
	h.lull.end()
	list, err := h.Release(context.Background())
	if errors.Is(err, ErrClosed) {
		err = nil
	}
	for _, d := range list {
		_ = d.File.Close()
	}
	h.letAllGo()
	for _, a := range h.all() {
		h.rest(a)
		h.mu.Lock()
		a.ending = ErrClosed
		h.mu.Unlock()
		if s := a.dev.disk.Load(); s != nil {
			s.start.cut()
		}
		err = errors.Join(err, h.drop(a, false)) // Release has seen to the overlay
	}
	h.ended.Wait()
	enough := time.AfterFunc(closeTime, h.saved)
	h.saving.Wait()
	enough.Stop()
	h.saved()
	h.stack.Opener.Close()
	if h.scratch != nil {
		err = errors.Join(err, h.scratch.Remove())
	}
	return errors.Join(err, h.folder.close())
}

// scratchFolder returns the path, for one to be made, of a folder that ends with this process, however that ends.
func (h *Host) scratchFolder(name string) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.scratch == nil {
		f, err := scratch.Make("", "host")
		if err != nil {
			return "", err
		}
		h.scratch = f
	}
	return filepath.Join(h.scratch.Path, name), nil
}

// all returns the attachments, in no order.
func (h *Host) all() []*attachment {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := make([]*attachment, 0, len(h.attached))
	for _, a := range h.attached {
		list = append(list, a)
	}
	return list
}

// begin has every frontend let clients in.
func (h *Host) begin() error {
	var errs []error
	for name, f := range h.cfg.Frontends {
		if err := f.Begin(); err != nil {
			errs = append(errs, fmt.Errorf("begin %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}
