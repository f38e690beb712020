package frontends

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/frontend/fuse"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/host/keep"
	"github.com/rivuletfs/rivulet/internal/fdpass"
)

// fusePrefix and the attachment's ID name its /dev/fuse.
const fusePrefix = "fuse-"

// File shows a disk as a file of its own directory, by FUSE (host.Frontend). It can be
// written if the disk can.
type File struct {
	Keeper keep.Keeper
	Logger *slog.Logger // nil: nobody

	mu       sync.Mutex
	sessions map[string]*fuse.Session // by attachment; those that Release ends
}

var _ host.Frontend = (*File)(nil)

// A fileState is what the next process needs to go on with a session.
type fileState struct {
	Session fuse.State `json:"session"`
	// Reserved is how many blocks of a mount's file system are set aside; 0: none.
	Reserved int64 `json:"reserved,omitempty"`
	// Device reads the file; "": none that stays.
	Device string `json:"device,omitempty"`
}

// Offer implements [host.Frontend]: o.Where is the directory, o.Name the file.
func (f *File) Offer(_ context.Context, o host.Offer) (host.Offered, error) {
	if err := o.AbsoluteDir(); err != nil {
		return nil, err
	}
	s, err := f.session(o, o.Where)
	if err != nil {
		return nil, err
	}
	return &offeredFile{File: f, id: o.ID, session: s, dir: o.Where}, nil
}

// session resumes the session that o comes with, or mounts one on dir.
func (f *File) session(o host.Offer, dir string) (*fuse.Session, error) {
	show := fuse.Disk{Name: o.Name, ID: o.Disk, Device: o.Device}
	s, err := f.resume(o, show)
	if err == nil && s == nil {
		if o.Again {
			clearDead(dir)
		}
		s, err = f.mount(o, show, dir)
	}
	if err != nil {
		return nil, err
	}
	f.remember(o.ID, s)
	return s, nil
}

func (f *File) remember(id string, s *fuse.Session) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sessions == nil {
		f.sessions = make(map[string]*fuse.Session)
	}
	f.sessions[id] = s
}

// resume returns nil if there is nothing to resume.
func (f *File) resume(o host.Offer, show fuse.Disk) (*fuse.Session, error) {
	if o.Inherited == nil {
		return nil, nil
	}
	d, ok := o.Inherited.Take(fusePrefix + o.ID)
	if !ok {
		return nil, nil
	}
	var st fileState
	if o.State == nil || json.Unmarshal(o.State, &st) != nil {
		// It died as it mounted. While anybody holds that, whoever looks at the
		// mount hangs.
		_ = d.File.Close()
		return nil, f.Keeper.Forget(d.Name)
	}
	if err := f.Keeper.Keep(d.Name, d.File); err != nil {
		f.log("descriptor is not kept: the mount will not outlive this process", err, o)
	}
	s, err := fuse.Resume(d.File.Take(), st.Session, []fuse.Disk{show}, fuse.Options{})
	if err == nil {
		return s, nil
	}
	// Likewise: it is mounted anew.
	if err := f.Keeper.Forget(d.Name); err != nil {
		f.log("descriptor is not forgotten", err, o)
	}
	switch {
	case errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.ENOTCONN), errors.Is(err, syscall.EPERM):
		// Unmounted, or taken from its users (EPERM: never mounted).
		return nil, fmt.Errorf("%w: %w", host.ErrGone, err)
	case errors.Is(err, fuse.ErrNoResend):
		f.log("taking a mount over needs Linux 6.9: what was open in it fails, and it is mounted anew", err, o)
		return nil, nil
	}
	return nil, err
}

func (f *File) mount(o host.Offer, show fuse.Disk, dir string) (*fuse.Session, error) {
	_, writable := o.Device.(blockdev.Writer)
	s, err := fuse.Mount(dir, fuse.Options{Writable: writable})
	if err != nil {
		return nil, err
	}
	err = s.AddDisk(show)
	if err == nil {
		err = f.keep(o, s)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// keep makes the session one that outlives this process.
func (f *File) keep(o host.Offer, s *fuse.Session) error {
	d, err := descriptor(o.ID, s)
	if err != nil {
		return err
	}
	defer func() { _ = d.File.Close() }()
	var st fileState
	_ = json.Unmarshal(o.State, &st)                          // what cannot be read is as none, see resume
	st = fileState{Session: s.State(), Reserved: st.Reserved} // which cannot be found out again
	var state json.RawMessage
	if err = f.Keeper.Keep(d.Name, d.File); err == nil {
		state, err = json.Marshal(st)
	}
	if err == nil {
		err = o.Save(state)
	}
	if err != nil {
		return errors.Join(err, f.Keeper.Forget(d.Name))
	}
	return nil
}

func descriptor(id string, s *fuse.Session) (keep.Descriptor, error) {
	fd, err := s.Descriptor()
	return keep.Descriptor{Name: fusePrefix + id, File: fdpass.NewFile(fd)}, err
}

// Begin implements [host.Frontend]; whoever looks sees files at once.
func (f *File) Begin() error { return nil }

// Release implements [host.Frontend]. Reads that are under way are answered
// first.
func (f *File) Release(ctx context.Context) ([]keep.Descriptor, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []keep.Descriptor
	var errs []error
	released := make(chan error, len(f.sessions))
	for id, s := range f.sessions {
		if ended(s) {
			released <- nil
			continue
		}
		d, err := descriptor(id, s)
		if err == nil {
			all = append(all, d)
		}
		errs = append(errs, err)
		go func() { released <- s.Release() }()
	}
	for range f.sessions {
		select {
		case err := <-released:
			errs = append(errs, err)
		case <-ctx.Done():
			return all, errors.Join(append(errs, context.Cause(ctx))...)
		}
	}
	f.sessions = nil
	return all, errors.Join(errs...)
}

func ended(s *fuse.Session) bool {
	select {
	case <-s.Done():
		return true
	default:
		return false
	}
}

// over forgets a session that has ended.
func (f *File) over(id string) error {
	f.mu.Lock()
	delete(f.sessions, id)
	f.mu.Unlock()
	return f.Keeper.Forget(fusePrefix + id)
}

func (f *File) log(what string, err error, o host.Offer) {
	if f.Logger != nil {
		f.Logger.Warn(what, "id", o.ID, "where", o.Where, "err", err)
	}
}

// An offeredFile is a session with one disk.
type offeredFile struct {
	*File
	id      string
	session *fuse.Session
	dir     string
}

var _ host.Offered = (*offeredFile)(nil)

// Address implements [host.Offered].
func (o *offeredFile) Address() string { return o.dir }

// Done implements [host.Offered].
func (o *offeredFile) Done() <-chan struct{} { return o.session.Done() }

// Err implements [host.Offered].
func (o *offeredFile) Err() error { return errors.Join(o.session.Wait(), o.over(o.id)) }

// Detach implements [host.Offered].
func (o *offeredFile) Detach(ctx context.Context, force bool) error {
	if err := unmount(ctx, o.session, force); err != nil {
		return err
	}
	return o.over(o.id)
}

// unmount unmounts a session once nobody uses it; with force, when ctx ends.
func unmount(ctx context.Context, s *fuse.Session, force bool) error {
	for !ended(s) {
		err := s.Unmount()
		if !errors.Is(err, fuse.ErrBusy) {
			return err
		}
		if pause(ctx) == nil {
			continue
		}
		if force {
			return s.Close()
		}
		return fmt.Errorf("%s: %w", s.Dir(), host.ErrBusy)
	}
	return nil // somebody else did
}

// pause waits a moment for something that is about to change; it returns the
// error of ctx once that has ended.
func pause(ctx context.Context) error {
	t := time.NewTimer(10 * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
