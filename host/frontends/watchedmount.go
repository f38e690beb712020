package frontends

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/rivuletfs/rivulet/frontend/loopmount"
	"github.com/rivuletfs/rivulet/host"
)

// A mountSource is what the file system of a mount is read from.
type mountSource interface {
	// gone is closed when nothing answers reads any more; nil: the source does not say.
	gone() <-chan struct{}
	// why is the reason, once gone is closed.
	why() error
	// cut takes it from its readers, who get I/O errors.
	cut() error
	// end ends it once it is not mounted here any more; where another mount namespace has a copy of the mount,
	// when ctx ends: with force by taking it from that, else with ErrBusy.
	end(ctx context.Context, force bool) error
}

// A watchedMount is a mount that is offered until somebody unmounts it, or its source is gone (host.Offered).
// One goroutine waits for that, from watch until stop; Detach is called by one at a time.
type watchedMount struct {
	mountSource
	mounted *loopmount.Mounted
	where   string       // the mount point as it was asked for
	logger  *slog.Logger // nil: nobody

	done    chan struct{} // closed by wait, after err is set
	err     error
	stop    context.CancelFunc // has wait return
	stopped chan struct{}      // closed when it has
}

var _ host.Offered = (*watchedMount)(nil)

func newWatchedMount(s mountSource, m *loopmount.Mounted, where string, logger *slog.Logger) *watchedMount {
	return &watchedMount{mountSource: s, mounted: m, where: where, logger: logger, done: make(chan struct{})}
}

// watch begins to wait for the end of the mount.
func (w *watchedMount) watch() {
	ctx, stop := context.WithCancel(context.Background())
	w.stop, w.stopped = stop, make(chan struct{})
	go w.wait(ctx)
}

// Address implements [host.Offered].
func (w *watchedMount) Address() string { return w.where }

// Done implements [host.Offered].
func (w *watchedMount) Done() <-chan struct{} { return w.done }

// Err implements [host.Offered].
func (w *watchedMount) Err() error { return w.err }

// wait returns after the end of the mount, or of ctx.
func (w *watchedMount) wait(ctx context.Context) {
	defer close(w.stopped)
	unmounted := make(chan error, 1)
	sub, stop := context.WithCancel(ctx)
	defer stop()
	go func() { unmounted <- w.mounted.AwaitUnmount(sub) }()
	var err error
	select {
	case err = <-unmounted:
	case <-w.gone():
		stop()
		if err = <-unmounted; errors.Is(err, context.Canceled) {
			err = nil // by stop
		}
		err = errors.Join(err, w.why())
	}
	if ctx.Err() != nil {
		return // it is released, or detached
	}
	w.err = errors.Join(err, w.endSource(ctx, true))
	close(w.done)
}

// endSource ends what was mounted; it does not wait for long.
func (w *watchedMount) endSource(ctx context.Context, force bool) error {
	ctx, cancel := context.WithTimeout(ctx, releaseWait)
	defer cancel()
	return w.end(ctx, force)
}

// Detach implements [host.Offered].
func (w *watchedMount) Detach(ctx context.Context, force bool) error {
	w.stop()
	<-w.stopped
	select {
	case <-w.done:
		return nil // somebody else did
	default:
	}
	err := w.unmount(ctx, force)
	if err == nil {
		err = w.endSource(context.WithoutCancel(ctx), force)
	}
	if err != nil {
		w.watch()
	}
	return err
}

// unmount unmounts once nobody uses the mount; with force, when ctx ends: from then on its users get
// I/O errors.
func (w *watchedMount) unmount(ctx context.Context, force bool) error {
	for {
		err := w.mounted.Unmount(ctx)
		if force && errors.Is(err, context.DeadlineExceeded) {
			return nil // unmounted here; another mount namespace has a copy
		}
		if !errors.Is(err, loopmount.ErrBusy) {
			return err
		}
		if pause(ctx) == nil {
			continue
		}
		if !force {
			return fmt.Errorf("%s: %w", w.where, host.ErrBusy)
		}
		if err := w.mounted.Detach(); err != nil {
			if errors.Is(err, loopmount.ErrBusy) { // covered by another mount
				err = fmt.Errorf("%w: %w", host.ErrBusy, err)
			}
			return err
		}
		if w.logger != nil {
			w.logger.Warn("the mount is in use, and gives I/O errors from now on", "where", w.where)
		}
		return w.cut()
	}
}

// stopAll has none of them be waited for any more.
func stopAll(all []*watchedMount) {
	for _, w := range all { // at once: a wait takes a moment to see that it is to end
		w.stop()
	}
	for _, w := range all {
		<-w.stopped
	}
}
