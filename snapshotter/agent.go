//go:build linux

package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/host/control"
)

// An Agent finds and mounts disks by way of a rivulet agent, which has the stores and
// the keys. Its disks outlive this process, and itself. Any number of calls may run at
// once, but of those for one directory. Contexts should end: while no agent answers,
// calls wait for one.
type Agent struct {
	// Socket is where the agent listens.
	Socket string
	// Stores are URLs, asked all at once; of several that have a disk, the first
	// in this order serves.
	Stores []string
	// OwnRepository says to ask the repository, too, that the image is pulled from,
	// after the stores.
	OwnRepository bool
	// Identities and Required are those of host.Spec.
	Identities, Required []string
	// Fill has the host cache, where there is one, filled with disks that are mounted;
	// nil: it gets what is read of them.
	Fill *host.Fill
}

var (
	_ Finder  = (*Agent)(nil)
	_ Mounter = (*Agent)(nil)
)

// agentPoll is how often to try whether an agent is there again.
const agentPoll = 100 * time.Millisecond

// dial returns a client. It waits for an agent that is not there, as it may be being
// restarted, as long as ctx.
func (a *Agent) dial(ctx context.Context) (*control.Client, error) {
	for {
		c, err := control.Dial(ctx, a.Socket)
		if !errors.Is(err, control.ErrNoAgent) {
			return c, err
		}
		select {
		case <-time.After(agentPoll):
		case <-ctx.Done():
			return nil, err
		}
	}
}

const (
	mountFrontend = "mount" // of the agent's
	blockFrontend = "block"
	// settleEvery is how often to look whether an agent has brought back a mount.
	settleEvery = 100 * time.Millisecond
	// detachWait is for how long an agent waits for the users of a disk to leave.
	detachWait = 5 * time.Second
)

// Find implements [Finder].
func (a *Agent) Find(ctx context.Context, q Query) (Found, error) {
	stores := a.stores(q.Reference)
	if len(stores) == 0 {
		return Found{}, fmt.Errorf("there is no store to look in: %w", ErrNoDisk)
	}
	c, err := a.dial(ctx)
	if err != nil {
		return Found{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	type answer struct {
		found host.Found
		err   error
	}
	answers := make([]chan answer, len(stores))
	for i, url := range stores {
		answers[i] = make(chan answer, 1)
		go func() {
			f, err := a.find(ctx, c, url, q)
			answers[i] <- answer{f, err}
		}()
	}
	var found *Found
	errs := make([]error, 0, len(stores))
	for i := range answers {
		got := <-answers[i]
		if found != nil {
			continue // it only has to end
		}
		if got.err == nil {
			found = foundAt(stores[i], got.found)
			cancel()
			continue
		}
		errs = append(errs, fmt.Errorf("%s: %w", stores[i], translate(got.err)))
	}
	cancel()
	if found != nil {
		return *found, nil
	}
	return Found{}, join(errs)
}

// find asks for one store's disk. That of an image is going to be mounted if it is found, so the
// agent opens it at once.
func (a *Agent) find(ctx context.Context, c *control.Client, url string, q Query) (host.Found, error) {
	ask := host.Query{Store: url, Identities: a.Identities, Required: a.Required}
	if q.Manifest == "" {
		ask.Chain = string(q.Chain)
		return c.Find(ctx, ask)
	}
	ask.Image, ask.Soon = string(q.Manifest), &host.Spec{Fill: a.Fill}
	f, err := c.Find(ctx, ask)
	if errors.As(err, new(host.SpecError)) { // an agent of before that
		ask.Soon = nil
		f, err = c.Find(ctx, ask)
	}
	return f, err
}

// Reach has the agent reach the stores, so that the first who pulls an image does not wait for that. An agent
// that cannot is no harm.
func (a *Agent) Reach(ctx context.Context) error {
	if len(a.Stores) == 0 {
		return nil
	}
	c, err := a.dial(ctx)
	if err != nil {
		return err
	}
	return c.Reach(ctx, a.Stores...)
}

// stores returns where to look for an image.
func (a *Agent) stores(reference string) []string {
	if !a.OwnRepository || reference == "" {
		return a.Stores
	}
	ref, err := name.ParseReference(reference)
	if err != nil {
		return a.Stores
	}
	own := "oci://" + ref.Context().Name()
	if slices.Contains(a.Stores, own) {
		return a.Stores
	}
	return append(a.Stores[:len(a.Stores):len(a.Stores)], own)
}

func foundAt(store string, f host.Found) *Found {
	found := &Found{Disk: Disk{Store: store, Digest: digest.Digest(f.Digest)}}
	for _, id := range f.Layers {
		found.Layers = append(found.Layers, digest.Digest(id))
	}
	return found
}

// translate makes ErrNoDisk of what an agent says when there is none.
func translate(err error) error {
	if errors.Is(err, chunk.ErrNotFound) {
		return fmt.Errorf("%w: %w", ErrNoDisk, err)
	}
	return err
}

// join is ErrNoDisk only if every store has said so.
func join(errs []error) error {
	i := slices.IndexFunc(errs, func(err error) bool { return !errors.Is(err, ErrNoDisk) })
	if i >= 0 {
		return errs[i]
	}
	return fmt.Errorf("in %d stores: %w", len(errs), ErrNoDisk)
}

// Mount implements [Mounter].
func (a *Agent) Mount(ctx context.Context, d Disk, dir string) error {
	return a.mount(ctx, d, dir, nil)
}

// MountWritable implements [Mounter].
func (a *Agent) MountWritable(ctx context.Context, d Disk, dir string, w Writes) error {
	return a.mount(ctx, d, dir, &host.Overlay{Dir: w.Dir, Keep: true, Room: w.Room})
}

// AttachWritable implements [Mounter].
func (a *Agent) AttachWritable(ctx context.Context, d Disk, link string, w Writes) (string, error) {
	c, err := a.dial(ctx)
	if err != nil {
		return "", err
	}
	for {
		at, err := attachedAt(ctx, c, blockFrontend, link)
		if err != nil {
			return "", err
		}
		if at == nil {
			break
		}
		if at.State != host.Waiting {
			return at.Address, nil
		}
		select { // an agent that has just begun brings it back
		case <-time.After(settleEvery):
		case <-ctx.Done():
			return "", fmt.Errorf("the agent has not attached it yet (%s): %w", at.Problem, context.Cause(ctx))
		}
	}
	made, err := c.Attach(ctx, host.Spec{
		Image: string(d.Digest), Store: d.Store, Frontend: blockFrontend, Where: link, Name: filepath.Base(filepath.Dir(link)),
		Identities: a.Identities, Required: a.Required, Overlay: &host.Overlay{Dir: w.Dir, Keep: true, Quota: w.Room}, Fill: a.Fill,
	})
	if err != nil {
		return "", translate(err)
	}
	return made[0].Address, nil
}

// Detach implements [Mounter].
func (a *Agent) Detach(ctx context.Context, link string) error {
	c, err := control.Dial(ctx, a.Socket)
	if err != nil {
		return err
	}
	at, err := attachedAt(ctx, c, blockFrontend, link)
	if err == nil && at != nil {
		err = c.Detach(ctx, at.ID, false, detachWait)
	}
	if err != nil && !errors.Is(err, host.ErrNotFound) {
		return fmt.Errorf("detach %s: %w", link, err)
	}
	return nil
}

func (a *Agent) mount(ctx context.Context, d Disk, dir string, o *host.Overlay) error {
	c, err := control.Dial(ctx, a.Socket)
	if errors.Is(err, control.ErrNoAgent) {
		// Without it, mounts go on for a while.
		if ok, mountErr := isMounted(dir); ok && mountErr == nil {
			return nil
		}
		c, err = a.dial(ctx)
	}
	if err != nil {
		return err
	}
	for {
		at, err := attachedAt(ctx, c, mountFrontend, dir)
		if err != nil {
			return err
		}
		if at == nil {
			break
		}
		mounted, err := isMounted(dir)
		if err != nil || mounted && at.State != host.Waiting {
			return err
		}
		select { // an agent that has just begun brings it back
		case <-time.After(settleEvery):
		case <-ctx.Done():
			return fmt.Errorf("the agent has not mounted it yet (%s): %w", at.Problem, context.Cause(ctx))
		}
	}
	// Nobody knows this mount; containers that use it keep it.
	if mounted, err := isMounted(dir); err != nil || mounted {
		if err = errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH)); err != nil {
			return fmt.Errorf("unmount %s, which the agent does not know: %w", dir, err)
		}
	}
	_, err = c.Attach(ctx, host.Spec{
		Image: string(d.Digest), Store: d.Store, Frontend: mountFrontend, Where: dir,
		Name: filepath.Base(dir), Identities: a.Identities, Required: a.Required, Overlay: o, Fill: a.Fill,
	})
	return translate(err)
}

// Unmount implements [Mounter].
func (a *Agent) Unmount(ctx context.Context, dir string) error {
	c, err := control.Dial(ctx, a.Socket)
	if err != nil {
		return err
	}
	at, err := attachedAt(ctx, c, mountFrontend, dir)
	if err == nil && at != nil {
		err = c.Detach(ctx, at.ID, false, detachWait)
	}
	if err == nil || errors.Is(err, host.ErrNotFound) {
		var mounted bool
		if mounted, err = isMounted(dir); mounted {
			err = unix.Unmount(dir, 0)
		}
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}

// attachedAt returns what the agent has attached at a place; nil: nothing.
func attachedAt(ctx context.Context, c *control.Client, frontend, where string) (*host.Info, error) {
	list, err := c.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, i := range list {
		if i.Spec.Frontend == frontend && i.Spec.Where == where {
			return &i, nil
		}
	}
	return nil, nil
}

// isMounted reports whether something is mounted on dir, which is a directory.
func isMounted(dir string) (bool, error) {
	var at, above syscall.Stat_t
	if err := syscall.Stat(filepath.Dir(dir), &above); err != nil {
		return false, &os.PathError{Op: "stat", Path: filepath.Dir(dir), Err: err}
	}
	err := syscall.Stat(dir, &at)
	if errors.Is(err, syscall.ENOTCONN) || errors.Is(err, syscall.EIO) {
		return true, nil // and dead
	}
	if err != nil {
		return false, &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	return at.Dev != above.Dev, nil
}
