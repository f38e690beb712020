package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rivuletfs/rivulet/internal/scratch"
	"github.com/rivuletfs/rivulet/vm/guest"
)

// Defaults of Options.
const (
	DefaultBootTime = 2 * time.Minute
	DefaultGrace    = 10 * time.Second
	DefaultMemory   = 512 << 20
)

// Options say how to run a Machine. VMM, Init and Process must be set.
type Options struct {
	VMM      VMM
	Init     string // the program rivulet-init, for the guest's architecture
	Process  guest.Process
	Hostname string
	// KernelArgs are added to the kernel's command line.
	KernelArgs []string
	// TempDir is where the machine's folder is made; "": the system's. Sockets in it
	// have paths of at most 108 bytes.
	TempDir string

	Stdin          io.Reader // nil: nothing
	Stdout, Stderr io.Writer // nil: nobody
	Console        io.Writer // what kernel, init and VMM print; nil: nobody
	// Resize has the terminal's new sizes; nil: it never changes.
	Resize <-chan guest.Terminal
	// Signals are sent to the process.
	Signals <-chan syscall.Signal

	// BootTime bounds the time to the process's start; Grace that from the end of ctx
	// to the process's, and from the process's to the VMM's. 0: the defaults.
	BootTime, Grace time.Duration
	// Started, if set, is called when the process runs.
	Started func()
	Logger  *slog.Logger // nil: nobody
}

// A StartError says that the guest's process could not be started: by the user's
// mistake, mostly.
type StartError struct{ Reason string }

func (e StartError) Error() string { return "start the process in the guest: " + e.Reason }

// maxTail is how much of what a VMM and its guest's console say an error quotes, in
// bytes.
const maxTail = 2 << 10

// Run runs the machine and the process in it, and returns how that ended. After ctx's
// end the process gets SIGTERM, and how it ends is returned. The error tells why there
// is no exit status: a StartError, a VMM that failed, a guest that did not come up.
func Run(ctx context.Context, m Machine, o Options) (guest.Exit, error) {
	exit, err := run(ctx, &m, &o)
	if err != nil {
		err = fmt.Errorf("run virtual machine: %w", err)
	}
	return exit, err
}

func run(ctx context.Context, m *Machine, o *Options) (exit guest.Exit, err error) {
	if err := o.complete(m); err != nil {
		return exit, err
	}
	folder, err := scratch.Make(o.TempDir, "vm")
	if err != nil {
		return exit, err
	}
	defer func() { err = errors.Join(err, folder.Remove()) }()
	m.dir = folder.Path
	config := guest.Config{
		Modules: m.Kernel.Modules, Device: o.VMM.device(m), Writable: m.Drive.Writable,
		Transport: o.VMM.Transport(), End: o.VMM.End(), Hostname: o.Hostname, Process: o.Process,
	}
	if err := writeInitrd(m.initrd(), o.Init, m.Kernel, &config); err != nil {
		return exit, err
	}
	m.cmdline = strings.Join(append(append(o.VMM.kernelArgs(m), "quiet", "panic=-1"), o.KernelArgs...), " ")
	s, err := listen(m, o)
	if err != nil {
		return exit, err
	}
	defer s.close()
	return s.run(ctx)
}

func (o *Options) complete(m *Machine) error {
	if m.Memory == 0 {
		m.Memory = DefaultMemory
	}
	if m.CPUs == 0 {
		m.CPUs = 1
	}
	if o.BootTime == 0 {
		o.BootTime = DefaultBootTime
	}
	if o.Grace == 0 {
		o.Grace = DefaultGrace
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Stdout == nil {
		o.Stdout = io.Discard
	}
	if o.Stderr == nil {
		o.Stderr = io.Discard
	}
	if m.Memory < 64<<20 || m.CPUs < 1 || m.CPUs > 255 {
		return fmt.Errorf("%d MiB of memory and %d processors: want at least 64 MiB, and 1 to 255", m.mebibytes(), m.CPUs)
	}
	return o.VMM.check(m)
}

// A session is one run of a machine.
type session struct {
	m *Machine
	o *Options

	listeners map[guest.Channel]net.Listener
	streams   sync.WaitGroup // one a channel
	started   chan struct{}  // closed when the process runs

	mu    sync.Mutex
	conns []net.Conn // accepted, closed at the end
}

// listen opens the sockets that the VMM connects to.
func listen(m *Machine, o *Options) (*session, error) {
	s := &session{m: m, o: o, listeners: map[guest.Channel]net.Listener{}, started: make(chan struct{})}
	for _, c := range guest.Channels() {
		path := m.serialSocket(c)
		if o.VMM.Transport() == guest.Vsock {
			path = fmt.Sprintf("%s_%d", m.vsockSocket(), c.Port)
		}
		l, err := net.Listen("unix", path)
		if err != nil {
			s.close()
			return nil, err
		}
		s.listeners[c] = l
	}
	return s, nil
}

// close is called when the VMM has ended: the streams end when they have carried what
// there is.
func (s *session) close() {
	for _, l := range s.listeners {
		_ = l.Close()
	}
	s.streams.Wait()
	for _, c := range s.conns {
		_ = c.Close()
	}
}

// stream runs fn with the guest's one connection to a channel. What it returns is
// closed when there is no more to come.
func (s *session) stream(c guest.Channel, fn func(net.Conn)) <-chan struct{} {
	done := make(chan struct{})
	s.streams.Go(func() {
		defer close(done)
		l := s.listeners[c]
		conn, err := l.Accept()
		_ = l.Close()
		if err != nil {
			return // the session is over
		}
		s.mu.Lock()
		s.conns = append(s.conns, conn)
		s.mu.Unlock()
		fn(conn)
	})
	return done
}

// input carries Stdin, once the process runs: before, a virtio-serial port that the
// guest has not opened drops what comes. A reader that blocks cannot be woken: its
// goroutine outlives the session until then, and does nothing more.
func (s *session) input(v *child) {
	s.stream(guest.Input, func(c net.Conn) {
		select {
		case <-s.started:
		case <-v.ended:
			return
		}
		go func() {
			if s.o.Stdin != nil {
				_, _ = io.Copy(c, s.o.Stdin)
			}
			_ = c.Close()
		}()
	})
}

// run starts the VMM and stays until it has ended.
func (s *session) run(ctx context.Context) (guest.Exit, error) {
	v, err := s.launch()
	if err != nil {
		return guest.Exit{}, err
	}
	s.stream(guest.Output, func(c net.Conn) { _, _ = io.Copy(s.o.Stdout, c) })
	s.stream(guest.Errors, func(c net.Conn) { _, _ = io.Copy(s.o.Stderr, c) })
	s.input(v)
	exit, err := s.follow(ctx, v)
	if err == nil {
		v.wait(s.o.Grace)
	}
	v.kill()
	var start StartError
	if err != nil && !errors.As(err, &start) {
		for _, t := range []*tail{&v.errors, &v.console} {
			if text := t.String(); text != "" {
				err = fmt.Errorf("%w\n%s", err, text)
			}
		}
	}
	return exit, err
}

// A child is a VMM that runs.
type child struct {
	process         *os.Process
	console, errors tail
	ended           chan struct{} // closed when it has, with err
	err             error
}

// launch starts the VMM.
func (s *session) launch() (*child, error) {
	cmd, err := s.o.VMM.command(s.m)
	if err != nil {
		return nil, err
	}
	v := &child{ended: make(chan struct{})}
	v.console.to = s.o.Console
	cmd.Stdout, cmd.Stderr = &v.console, &v.errors
	cmd.SysProcAttr = childAttributes()
	s.o.Logger.Debug("start VMM", "command", cmd.Args)
	started := make(chan error, 1)
	go func() {
		// The child is to die with its parent, which for Linux is this thread.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			v.err = cmd.Wait()
			close(v.ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	v.process = cmd.Process
	return v, nil
}

// wait waits for the VMM's end, as long as d.
func (v *child) wait(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-v.ended:
	case <-t.C:
	}
}

// kill ends the VMM if it has not ended.
func (v *child) kill() {
	_ = v.process.Kill()
	<-v.ended
}

// follow waits for the process's end.
func (s *session) follow(ctx context.Context, v *child) (guest.Exit, error) {
	messages := make(chan guest.Message)
	failed := make(chan error, 1)
	stop := make(chan struct{})
	defer close(stop)
	control := make(chan net.Conn, 1)
	all := s.stream(guest.Control, func(c net.Conn) {
		control <- c
		for m, err := range guest.Messages(c) {
			if err != nil {
				failed <- err
				return
			}
			select {
			case messages <- m:
			case <-stop:
				return
			}
		}
	})
	booted := make(chan error, 1)
	s.streams.Go(func() { booted <- s.o.VMM.boot(ctx, s.m) })

	deadline := time.NewTimer(s.o.BootTime)
	defer deadline.Stop()
	done, ended := ctx.Done(), v.ended
	var over <-chan struct{} // set when the VMM has ended: what the guest had said is read first
	var conn net.Conn
	tell := func(m guest.Message) {
		if conn != nil {
			_ = conn.SetWriteDeadline(time.Now().Add(time.Second)) // a guest that does not read is no reason to wait
			_ = m.Write(conn)
		}
	}
	started := false
	for {
		select {
		case conn = <-control:
		case err := <-booted:
			if err != nil {
				return guest.Exit{}, err
			}
		case m := <-messages:
			switch {
			case m.Exit != nil:
				return *m.Exit, nil
			case m.Failed != "":
				return guest.Exit{}, StartError{m.Failed}
			case m.Started && !started:
				started = true
				close(s.started)
				deadline.Stop()
				if s.o.Started != nil {
					s.o.Started()
				}
			}
		case err := <-failed:
			return guest.Exit{}, err
		case <-ended:
			_ = s.listeners[guest.Control].Close()
			ended, over = nil, all
		case <-over:
			return guest.Exit{}, errors.Join(fmt.Errorf("%s ended before the process did", s.o.VMM.Name()), v.err)
		case <-deadline.C:
			if started {
				return guest.Exit{}, fmt.Errorf("the process has not ended %v after SIGTERM", s.o.Grace)
			}
			return guest.Exit{}, fmt.Errorf("the process has not been started within %v%s", s.o.BootTime, s.hint())
		case size := <-s.o.Resize:
			tell(guest.Message{Resize: &size})
		case signal := <-s.o.Signals:
			tell(guest.Message{Signal: int(signal)})
		case <-done:
			done = nil
			if !started {
				return guest.Exit{}, ctx.Err()
			}
			tell(guest.Message{Signal: int(syscall.SIGTERM)})
			deadline.Reset(s.o.Grace)
		}
	}
}

// hint says what to try when a guest does not come up.
func (s *session) hint() string {
	if q, ok := s.o.VMM.(QEMU); ok && !q.emulates(s.m) {
		return "; does this machine's KVM run stock kernels? Emulation (tcg) does without it"
	}
	return ""
}

// A tail keeps the end of what is written to it, and passes it on.
type tail struct {
	to io.Writer // nil: nobody
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	if t.to != nil {
		_, _ = t.to.Write(p)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if n := len(t.b) - maxTail; n > 0 {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.b))
}
