package host

import (
	"context"

	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
)

// A claiming marks an image as in use while its disk is opened and offered, which waits for
// none of that: from a far origin the mark takes as long as all else together.
type claiming struct {
	cancel context.CancelFunc
	image  chan *generation.Image // of it, when it is found; holds one
	done   chan struct{}          // closed when err is set
	err    error
}

// claim begins to mark the image with that block map. The caller ends it.
func claim(v *generation.View, d origin.Digest) *claiming {
	ctx, cancel := context.WithCancel(context.Background())
	c := &claiming{cancel: cancel, image: make(chan *generation.Image, 1), done: make(chan struct{})}
	go func() {
		defer close(c.done)
		var l generation.List
		if l, c.err = v.Claim(ctx, d); c.err != nil {
			return
		}
		select {
		case i := <-c.image:
			c.err = i.Settle(ctx, l)
		case <-ctx.Done():
			c.err = context.Cause(ctx)
		}
	}()
	return c
}

// wait returns when the image is marked and its place settled, or ctx has ended.
func (c *claiming) wait(ctx context.Context) error {
	if c == nil {
		return nil
	}
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// end gives up what is still under way, and waits for that.
func (c *claiming) end() {
	if c != nil {
		c.cancel()
		<-c.done
	}
}

// settled returns when the disk's image is claimed, as far as it is to be. One that cannot be is
// not shared with those who come after.
func (h *Host) settled(ctx context.Context, s *sharedDisk) error {
	err := s.claim.wait(ctx)
	if err != nil && ctx.Err() == nil {
		h.mu.Lock()
		if h.disks[s.key] == s {
			delete(h.disks, s.key)
			h.gone.disks.Add(s.counted())
		}
		h.mu.Unlock()
	}
	return err
}
