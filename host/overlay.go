package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/overlay"
)

// An Overlay says that a disk can be written, and where its writes are kept. It
// belongs to one attachment.
type Overlay struct {
	// Dir is the absolute path of its folder: a new one, or one that was kept.
	// Empty is a folder that ends with the attachment, in the state folder, or
	// with the process, where there is none.
	Dir string `json:"dir,omitempty"`
	// Keep leaves the folder when the attachment ends on purpose; else its key is
	// erased, and then its files.
	Keep  bool  `json:"keep,omitempty"`
	Size  int64 `json:"size,omitempty"`  // of the disk in bytes; 0: as it is. It can grow
	Quota int64 `json:"quota,omitempty"` // bytes that written blocks may take; 0: no bound
	// Room is how many bytes files may take in a mount, beside those of the image; 0: what
	// the file system has. Unlike a Quota it is met by the writer, as a full disk.
	Room int64 `json:"room,omitempty"`
}

func (o *Overlay) check() error {
	switch {
	case o == nil:
		return nil
	case len(o.Dir) > maxText, strings.ContainsRune(o.Dir, 0), o.Dir != "" && !filepath.IsAbs(o.Dir):
		return SpecErrorf("attach: overlay %.100q: want an absolute path", o.Dir)
	case o.Keep && o.Dir == "":
		return SpecErrorf("attach: an overlay that is kept needs a folder")
	case o.Size < 0 || o.Quota < 0 || o.Room < 0 || o.Size%blockdev.SectorSize != 0:
		return SpecErrorf("attach: overlay of %d bytes with a quota of %d: want multiples of %d", o.Size, o.Quota, blockdev.SectorSize)
	}
	return nil
}

// overlayPrefix and the attachment's ID name its overlay in the state folder.
const overlayPrefix = "overlay-"

// mergeLayers is how many layers of an overlay may stay unmerged: few enough to be
// opened fast, and enough that a small change is not copied for each commit.
const mergeLayers = 4

// openOverlay opens the overlay of r over base, and completes r by where it is and
// how large. In an Attach, one that is not there is made.
func (h *Host) openOverlay(r *record, base blockdev.Device, attach bool) (o *overlay.Overlay, made bool, err error) {
	spec := *r.Spec.Overlay
	opts := overlay.Options{Size: spec.Size, Quota: spec.Quota, BaseID: r.Disk}
	fail := func(err error) (*overlay.Overlay, bool, error) {
		return nil, false, fmt.Errorf("attach %q: %w", r.Spec.Image, err)
	}
	switch {
	case spec.Dir != "":
	case h.folder != nil:
		spec.Dir = filepath.Join(h.folder.path, overlayPrefix+r.ID)
	default:
		if spec.Dir, err = h.scratchFolder(overlayPrefix + r.ID); err != nil {
			return fail(err)
		}
		opts.Keys = new(memoryKey) // dies with the process, however that ends
	}
	if attach {
		o, err = overlay.Create(spec.Dir, base, opts)
		made = err == nil
	}
	if !attach || errors.Is(err, fs.ErrExist) {
		o, err = overlay.Open(spec.Dir, base, opts)
	}
	switch {
	case errors.Is(err, overlay.ErrInUse):
		return fail(SpecErrorf("another disk has the overlay: %w", err))
	case errors.Is(err, overlay.ErrBase):
		if is, inspectErr := overlay.Inspect(spec.Dir, nil); inspectErr == nil && is.BaseID != r.Disk {
			err = fmt.Errorf("overlay %s is of the disk %s, and this one is %s: attach it by that digest, or choose another folder", spec.Dir, is.BaseID, r.Disk)
		}
		return fail(SpecError{err})
	case err != nil:
		return fail(err)
	}
	r.Spec.Overlay, r.Size = &spec, o.Size()
	return o, made, nil
}

// A memoryKey is an overlay's key that is nowhere else.
type memoryKey struct{ key []byte }

// Load implements [overlay.Keys].
func (k *memoryKey) Load() ([]byte, error) {
	if k.key == nil {
		return nil, fs.ErrNotExist
	}
	return append([]byte(nil), k.key...), nil
}

// Store implements [overlay.Keys].
func (k *memoryKey) Store(key []byte) error {
	k.key = append([]byte(nil), key...)
	return nil
}

// Erase implements [overlay.Keys].
func (k *memoryKey) Erase() error {
	clear(k.key)
	k.key = nil
	return nil
}

// cleanOverlays removes overlays in the state folder whose attachments have ended
// while this process, or one before it, died. It is for who has the lock.
func (f *folder) cleanOverlays() error {
	if f == nil {
		return nil
	}
	list, err := f.files(overlayPrefix, "")
	for _, dir := range list {
		id := strings.TrimPrefix(filepath.Base(dir), overlayPrefix)
		if _, statErr := os.Lstat(filepath.Join(f.path, id+recordSuffix)); errors.Is(statErr, fs.ErrNotExist) {
			err = errors.Join(err, overlay.Destroy(dir, overlay.Options{}))
		}
	}
	return err
}

// A writable is a device with an overlay, which may still have to be opened, and
// is closed while another process goes on: calls wait for it then, as those of
// device do.
type writable struct {
	*device
	over atomic.Pointer[overlay.Overlay]

	mu    sync.Mutex
	there chan struct{}      // closed while over is set
	stop  context.CancelFunc // ends merges of over
	life  context.Context    // they run under; of over
}

var (
	_ blockdev.Writer     = (*writable)(nil)
	_ blockdev.Extenter   = (*writable)(nil)
	_ blockdev.Prefetcher = (*writable)(nil)
)

func newWritable(d *device) *writable { return &writable{device: d, there: make(chan struct{})} }

// put gives the device its overlay.
func (w *writable) put(o *overlay.Overlay) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.life, w.stop = context.WithCancel(context.Background())
	w.over.Store(o)
	close(w.there)
}

// take takes the overlay back, nil if there is none. Merges are told to end.
func (w *writable) take() *overlay.Overlay {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	o := w.over.Swap(nil)
	if o != nil {
		w.stop()
		w.there = make(chan struct{})
	}
	return o
}

// end closes the overlay, or with destroy erases it.
func (w *writable) end(destroy bool) error {
	o := w.take()
	switch {
	case o == nil:
		return nil
	case destroy:
		return o.Destroy()
	}
	return o.Close()
}

// get returns the overlay, once it is open.
func (w *writable) get(ctx context.Context) (*overlay.Overlay, error) {
	if o := w.over.Load(); o != nil {
		return o, nil
	}
	t := time.NewTimer(w.patient)
	defer t.Stop()
	for {
		w.mu.Lock()
		there := w.there
		w.mu.Unlock()
		select {
		case <-there:
			if o := w.over.Load(); o != nil {
				return o, nil
			}
		case <-t.C:
			return nil, fmt.Errorf("%w, after %v", errNotOpen, w.patient)
		case <-w.closed:
			return nil, errNotOpen
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// ReadAt implements [io.ReaderAt].
func (w *writable) ReadAt(p []byte, off int64) (n int, err error) {
	o, err := w.get(context.Background())
	if err == nil {
		n, err = o.ReadAt(p, off)
	}
	w.served.count(n, err)
	return n, err
}

// WriteAt implements [io.WriterAt].
func (w *writable) WriteAt(p []byte, off int64) (int, error) {
	o, err := w.get(context.Background())
	if err != nil {
		return 0, err
	}
	return o.WriteAt(p, off)
}

// Flush implements [blockdev.Writer].
func (w *writable) Flush() error {
	o, err := w.get(context.Background())
	if err != nil {
		return err
	}
	return o.Flush()
}

// Discard implements [blockdev.Writer].
func (w *writable) Discard(off, length int64) error {
	o, err := w.get(context.Background())
	if err != nil {
		return err
	}
	return o.Discard(off, length)
}

// WriteZeroes implements [blockdev.Writer].
func (w *writable) WriteZeroes(off, length int64) error {
	o, err := w.get(context.Background())
	if err != nil {
		return err
	}
	return o.WriteZeroes(off, length)
}

// Extents implements [blockdev.Extenter].
func (w *writable) Extents(ctx context.Context, off, length int64, fn func(blockdev.Extent) bool) error {
	o, err := w.get(ctx)
	if err != nil {
		return err
	}
	return o.Extents(ctx, off, length, fn)
}

// Prefetch implements [blockdev.Prefetcher].
func (w *writable) Prefetch(ctx context.Context, off, length int64) error {
	o, err := w.get(ctx)
	if err != nil {
		return err
	}
	return o.Prefetch(ctx, off, length)
}

// Written tells of an attachment's overlay.
type Written struct {
	Bytes     int64 `json:"bytes"`     // written by the guest since this process opened it
	Allocated int64 `json:"allocated"` // bytes that its blocks take
	Layers    int   `json:"layers"`
}

// written tells of a's overlay, nil if there is none or it is not open.
func (w *writable) written() *Written {
	if w == nil {
		return nil
	}
	o := w.over.Load()
	if o == nil {
		return nil
	}
	st := o.Stats()
	return &Written{Bytes: st.Written, Allocated: st.Allocated, Layers: st.Layers}
}

// ErrReadOnly is returned (wrapped) where a disk is wanted that can be written.
var ErrReadOnly = errors.New("the disk is read-only")

// A Snapshot is an attachment's disk as it was at one moment, for who publishes
// it. Its guest goes on writing.
type Snapshot struct {
	*overlay.Snapshot
	Info Info // of the attachment
	over *overlay.Overlay
	life context.Context
	keep int // layers that may stay
}

// Snapshot freezes the disk of an attachment that can be written. What the guest
// has in its own memory is not there: the disk is as after a power cut, unless the
// guest was asked to sync. The caller closes it. It ends with the attachment, and
// when another process takes that over.
func (h *Host) Snapshot(ctx context.Context, id string) (*Snapshot, error) {
	h.gate.RLock()
	defer h.gate.RUnlock()
	if h.closed {
		return nil, ErrClosed
	}
	h.mu.Lock()
	a := h.attached[id]
	h.mu.Unlock()
	switch {
	case a == nil:
		return nil, fmt.Errorf("snapshot of %q: %w", id, ErrNotFound)
	case a.over == nil:
		return nil, SpecErrorf("snapshot of %s: %w", id, ErrReadOnly)
	}
	if _, err := a.over.get(ctx); err != nil {
		return nil, fmt.Errorf("snapshot of %s: %w", id, err)
	}
	a.over.mu.Lock()
	defer a.over.mu.Unlock()
	o := a.over.over.Load()
	if o == nil {
		return nil, fmt.Errorf("snapshot of %s: %w", id, ErrClosed)
	}
	s, err := o.Snapshot()
	if err != nil {
		return nil, fmt.Errorf("snapshot of %s: %w", id, err)
	}
	keep := mergeLayers
	if a.spec.Overlay.Quota > 0 {
		keep = 1 // what is written again would count twice
	}
	return &Snapshot{Snapshot: s, Info: h.info(a), over: o, life: a.over.life, keep: keep}, nil
}

// Close lets go of the snapshot, and brings the overlay's layers down to a few. A
// merge that is cut short is gone on with by the next.
func (s *Snapshot) Close() error {
	err := s.Snapshot.Close()
	if merged := s.over.Merge(s.life, s.keep); merged != nil && !errors.Is(merged, context.Canceled) && !errors.Is(merged, overlay.ErrClosed) {
		err = errors.Join(err, merged)
	}
	return err
}

// newAttachment returns an attachment that is not offered.
func (h *Host) newAttachment(r *record) *attachment {
	dev := newDevice(r.ID, r.Size, disk.DefaultTimeout)
	dev.slow, dev.onSlow = h.cfg.Slow, h.onSlow
	a := &attachment{dev: dev, spec: r.Spec, id: r.ID, image: r.Image, rec: r, problems: make(map[string]error), gone: make(chan struct{})}
	if r.Spec.Overlay != nil {
		a.over = newWritable(a.dev)
	}
	return a
}

// device is what a frontend shows of a.
func (a *attachment) device() blockdev.Device {
	if a.over != nil {
		return a.over
	}
	return a.dev
}

// isOpen reports whether nothing waits for a's disk.
func (a *attachment) isOpen() bool {
	return a.dev.disk.Load() != nil && (a.over == nil || a.over.over.Load() != nil)
}

// reopenOverlay opens a's overlay, if it has one that is not open.
func (h *Host) reopenOverlay(a *attachment, base blockdev.Device) error {
	if a.over == nil || a.over.over.Load() != nil {
		return nil
	}
	h.mu.Lock()
	r := *a.rec
	h.mu.Unlock()
	o, _, err := h.openOverlay(&r, base, false)
	if err != nil {
		return err
	}
	a.over.put(o)
	return nil
}
