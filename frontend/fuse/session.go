package fuse

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/frontend/internal/lead"
)

// Errors that callers branch on.
var (
	// ErrBusy says that a mount is in use: a file is open, a directory is
	// some process's own, or a loop device reads from it.
	ErrBusy = errors.New("the mount is in use")
	// ErrNotMounted says that no session is mounted at a directory.
	ErrNotMounted = errors.New("no disks are shown here")
	// ErrNoResend says that the kernel cannot send requests again to a process
	// that takes a session over.
	ErrNoResend = errors.New("taking a FUSE session over needs Linux 6.9")
	// ErrNeedsLinux is what Mount and Resume return on other systems.
	ErrNeedsLinux = errors.New("a FUSE mount needs Linux")
)

// FSType is the type that /proc/self/mountinfo shows for our mounts.
const FSType = "fuse.rivulet"

// Options of a session; the zero value is good.
type Options struct {
	// AllowOther lets every user of the machine read the disks. Only root may
	// ask for it. Resume takes it from the state.
	AllowOther bool
	// ReadAhead is how many bytes the kernel reads ahead in files of the mount
	// that are read through the page cache: 0 is 1 MiB. Without root the
	// kernel's own 128 KiB stay.
	ReadAhead int
	// InFlight bounds the requests served at once, 1 to 4096: 0 is 64. Each
	// holds up to MaxRead bytes while it is served.
	InFlight int
	// Writable lets the disks be written that are a blockdev.Writer. Resume takes it
	// from the state.
	Writable bool
}

func (o Options) check() (Options, error) {
	if o.ReadAhead == 0 {
		o.ReadAhead = 1 << 20
	}
	if o.InFlight == 0 {
		o.InFlight = 64
	}
	if o.ReadAhead < 0 || o.InFlight < 1 || o.InFlight > 4096 {
		return o, fmt.Errorf("fuse options: readahead %d, in flight %d: out of bounds", o.ReadAhead, o.InFlight)
	}
	return o, nil
}

// A State is what another process needs, beside the descriptor and the same
// disks, to go on with a session. It never changes after Mount.
type State struct {
	Version    int    `json:"version"` // 1
	Dir        string `json:"dir"`     // the mount point, absolute
	Minor      uint32 `json:"minor"`   // protocol 7.Minor, negotiated
	Flags      uint64 `json:"flags"`   // INIT flags, negotiated
	UID        uint32 `json:"uid"`     // owner of the files shown
	GID        uint32 `json:"gid"`
	AllowOther bool   `json:"allow_other"`
	Writable   bool   `json:"writable,omitempty"`
	Helper     string `json:"helper,omitempty"` // fusermount program that made the mount
}

const stateVersion = 1

func (st State) check() error {
	switch {
	case st.Version != stateVersion:
		return fmt.Errorf("state of version %d, want %d", st.Version, stateVersion)
	case st.Dir == "" || st.Dir[0] != '/':
		return fmt.Errorf("state with mount point %q", st.Dir)
	case st.Minor < minMinor:
		return fmt.Errorf("state with protocol 7.%d, want 7.%d or later", st.Minor, minMinor)
	}
	return nil
}

// A Session serves one mount.
//
// Its workers are a crew (package lead): the leader alone reads requests from the descriptor,
// and serves them itself while they come one by one and the device is fast, so that nobody is
// woken but by the kernel. Slow ones, and those that come together, are served by who has read them,
// while another leads; up to Options.InFlight are.
// Replies are written without a lock. Waiting for a request blocks a thread, one a
// session, in poll(2) and not in the runtime's poller, which costs a switch of
// goroutines more for each request. When the last worker has ended the descriptor is closed.
type Session struct {
	dispatch *dispatcher
	state    State // Minor and Flags unset: those are the dispatcher's
	crew     *lead.Crew
	requests *pool // buffers for what the leader reads

	file *os.File // notifications and close
	fd   int      // the same descriptor; valid while a worker runs

	releasing atomic.Bool
	stop      *os.File // a pipe's end that Release closes
	stopped   *os.File // the other, which then wakes the worker that waits
	stoppedFD int      // of stopped

	failure error         // why the session ended, if not by unmounting or Release; set before done is closed
	done    chan struct{} // closed when no worker is left, after the descriptor
}

// newSession takes ownership of fd, which is mounted already.
func newSession(fd int, st State, o Options) (*Session, error) {
	err := unix.SetNonblock(fd, true)
	var stop, stopped *os.File
	if err == nil {
		stopped, stop, err = os.Pipe()
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("fuse descriptor: %w", err)
	}
	s := &Session{
		dispatch: &dispatcher{
			tree:       newTree(),
			uid:        st.UID,
			gid:        st.GID,
			allowOther: st.AllowOther,
			writable:   st.Writable,
			background: uint16(o.InFlight),
			minor:      st.Minor,
			flags:      st.Flags,
			ready:      make(chan struct{}),
		},
		state:    st,
		requests: requestPools(st.Writable),
		file:     os.NewFile(uintptr(fd), "/dev/fuse"),
		fd:       fd,
		done:     make(chan struct{}),

		stop:      stop,
		stopped:   stopped,
		stoppedFD: int(stopped.Fd()),
	}
	s.crew = lead.New(o.InFlight, func() func() { return s.lead })
	return s, nil
}

// closeFiles ends the session's hold on the mount; no worker runs.
func (s *Session) closeFiles() {
	_ = s.file.Close()
	_ = s.stop.Close() // Release may have done so
	_ = s.stopped.Close()
}

func (s *Session) start() {
	go func() {
		s.crew.Run()
		s.closeFiles()
		close(s.done)
	}()
}

// AddDisk shows d at once. The device must stay open until RemoveDisk or the
// session's end. Errors are ErrExists and those of a bad Disk.
func (s *Session) AddDisk(d Disk) error { return s.dispatch.tree.add(d) }

// RemoveDisk hides a disk and returns when its device is no longer used;
// files that are still open get EIO for what is not cached. The error is
// ErrNotFound, or that of telling the kernel.
func (s *Session) RemoveDisk(name string) error {
	if _, err := s.dispatch.tree.remove(name); err != nil {
		return err
	}
	b := make([]byte, outHeaderSize+16+len(name)+1)
	putHeader(b, len(b), -notifyInvalEntry, 0)
	order.PutUint64(b[16:], rootNode)
	order.PutUint32(b[24:], uint32(len(name)))
	copy(b[32:], name)
	if err := s.notify(b); err != nil {
		return fmt.Errorf("remove disk %q: forget its name: %w", name, err)
	}
	return nil
}

// notify sends a message of our own. That the kernel does not know the name,
// or that the session is over, is no error.
func (s *Session) notify(msg []byte) error {
	_, err := s.file.Write(msg)
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, os.ErrClosed) || errors.Is(err, syscall.ENODEV) {
		return nil
	}
	return err
}

// resend asks for the requests that a process before us read and did not answer.
func (s *Session) resend() error {
	var b [outHeaderSize]byte
	putHeader(b[:], len(b), -notifyResend, 0)
	_, err := s.file.Write(b[:])
	if errors.Is(err, syscall.EINVAL) {
		return ErrNoResend
	}
	return err
}

// Dir is the mount point.
func (s *Session) Dir() string { return s.state.Dir }

// State is what Resume needs in another process, beside the descriptor.
func (s *Session) State() State {
	st := s.state
	st.Minor, st.Flags = s.dispatch.negotiated()
	return st
}

// Descriptor returns a new descriptor of the session, close-on-exec and the
// caller's to close. While anybody holds one, the mount outlives its server:
// readers wait instead of failing, until Resume or until the last is closed.
func (s *Session) Descriptor() (int, error) {
	raw, err := s.file.SyscallConn()
	if err != nil {
		return -1, fmt.Errorf("fuse descriptor: %w", err)
	}
	fd := -1
	var dupErr error
	err = raw.Control(func(old uintptr) { fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) })
	if err := errors.Join(err, dupErr); err != nil {
		return -1, fmt.Errorf("fuse descriptor: duplicate: %w", err)
	}
	return fd, nil
}

// Done is closed when the session has ended: no device is used any more.
func (s *Session) Done() <-chan struct{} { return s.done }

// Wait returns when the session has ended, with the reason if that was neither
// an unmount nor Release.
func (s *Session) Wait() error {
	<-s.done
	return s.failure
}

// Release ends serving without unmounting: requests that were read are
// answered, the rest wait in the kernel for whoever holds the Descriptor. If
// nobody does, readers get errors. It waits for reads that are under way.
func (s *Session) Release() error {
	s.releasing.Store(true)
	_ = s.stop.Close() // closed already if this is the second call, or too late
	return s.Wait()
}

// Unmount unmounts and waits for the end of the session. If the mount is in
// use it returns ErrBusy and goes on serving.
func (s *Session) Unmount() error {
	if err := unmount(s.state.Dir, s.state.Helper, false); err != nil {
		return err
	}
	return s.Wait()
}

// Close unmounts whether or not the mount is in use, and waits for the end of
// the session; what is still open gets errors from then on. It is for a
// process about to end, after Unmount.
func (s *Session) Close() error {
	err := unmount(s.state.Dir, s.state.Helper, false)
	if errors.Is(err, ErrBusy) {
		err = unmount(s.state.Dir, s.state.Helper, true)
	}
	return errors.Join(err, s.Release())
}
