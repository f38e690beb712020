package host

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"sync/atomic"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/disk"
)

// Served is what readers of an attachment got.
type Served struct {
	Reads  int64 `json:"reads"`
	Bytes  int64 `json:"bytes"`
	Errors int64 `json:"errors"` // reads that failed, but for those of a closed disk
	Hung   int64 `json:"hung"`   // of them, those given up for want of time
}

// A ServedKey says who read what. There are at most MaxServedImages of images, so that
// the numbers can be kept for ever: those of the images that were attached first.
type ServedKey struct {
	Frontend string
	Image    string // as it was attached, cut to maxImageName bytes of UTF-8; OtherImages
}

const (
	// MaxServedImages bounds the images whose reads are counted apart.
	MaxServedImages = 100
	// OtherImages are all others, together.
	OtherImages = "other"

	maxImageName = 128
)

// Stats is what a host did since it was made.
type Stats struct {
	Disks  disk.Stats                  // of all disks together, those included that are gone
	Tiers  [chunk.Tiers]disk.TierStats // likewise, by chunk.Tier
	Served map[ServedKey]Served        // likewise, of all attachments
	Starts StartStats                  // likewise, of their starts
	Memory int64                       // bytes of decoded frames, now
}

// Stats returns the counters. No counter is ever less than it was.
func (h *Host) Stats() Stats {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := Stats{Disks: h.gone.disks, Tiers: h.stack.Meter.Stats(), Served: make(map[ServedKey]Served), Starts: h.starts.stats(), Memory: h.stack.Memory.Used()}
	maps.Copy(s.Served, h.gone.served)
	for _, a := range h.attached {
		key := h.gone.key(&a.spec)
		s.Served[key] = s.Served[key].plus(a.dev.served.served())
	}
	for _, d := range h.disks {
		s.Disks.Add(d.counted())
	}
	return s
}

// Unwell says of each attachment that is not as it should be what is wrong, in a line
// for people; none: all is well.
func (h *Host) Unwell() []string {
	var list []string
	for _, i := range h.List() {
		if i.State != Ready || i.Problem != "" {
			list = append(list, fmt.Sprintf("%s %s %s: %s", i.ID, i.Spec.Image, i.State, i.Problem))
		}
	}
	return list
}

// gone are counters of what is not there any more.
type gone struct {
	disks  disk.Stats
	served map[ServedKey]Served
	images map[string]bool // that are counted apart
}

// key returns where reads of an attachment are counted, which is the same for as long
// as the host lives.
func (g *gone) key(s *Spec) ServedKey {
	name := strings.ToValidUTF8(s.Image[:min(len(s.Image), maxImageName)], "")
	if !g.images[name] {
		if len(g.images) == MaxServedImages {
			return ServedKey{s.Frontend, OtherImages}
		}
		g.images[name] = true
	}
	return ServedKey{s.Frontend, name}
}

// add counts what an attachment has served for good.
func (g *gone) add(a *attachment) {
	key := g.key(&a.spec)
	g.served[key] = g.served[key].plus(a.dev.served.served())
}

func (s Served) plus(o Served) Served {
	return Served{s.Reads + o.Reads, s.Bytes + o.Bytes, s.Errors + o.Errors, s.Hung + o.Hung}
}

// servedCounters are what a device counts.
type servedCounters struct{ reads, bytes, errors, hung atomic.Int64 }

// count counts a read.
func (c *servedCounters) count(n int, err error) {
	c.reads.Add(1)
	c.bytes.Add(int64(n))
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, disk.ErrClosed) {
		return
	}
	c.errors.Add(1)
	if errors.Is(err, disk.ErrTimedOut) || errors.Is(err, errNotOpen) {
		c.hung.Add(1)
	}
}

func (c *servedCounters) served() Served {
	return Served{c.reads.Load(), c.bytes.Load(), c.errors.Load(), c.hung.Load()}
}
