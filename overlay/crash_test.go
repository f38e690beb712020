package overlay_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"testing"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/blockdev/blockdevtest"
	"github.com/rivuletfs/rivulet/overlay"
	"github.com/rivuletfs/rivulet/overlay/overlaytest"
)

const sector = blockdev.SectorSize

// A model is what a disk may read as after a crash: of each sector, what it was
// at the last flush, or anything that was written since. After a kill it is what it
// was when the last call returned, or what a call that did not return may have made
// of it.
type model struct {
	now     []byte
	allowed [][][]byte       // by sector; the last is the one of now
	open    map[int][][]byte // sectors of the calls that have not returned: before, and after
}

func newModel(data []byte) *model {
	m := &model{now: bytes.Clone(data), allowed: make([][][]byte, len(data)/sector), open: map[int][][]byte{}}
	m.flushed()
	return m
}

// returned says that the last call has.
func (m *model) returned() { clear(m.open) }

// flushed says that a flush has returned.
func (m *model) flushed() {
	m.returned()
	for i := range m.allowed {
		m.allowed[i] = [][]byte{bytes.Clone(m.now[i*sector : (i+1)*sector])}
	}
}

// change says that bytes are being written.
func (m *model) change(p []byte, off int) {
	if len(p) == 0 {
		return
	}
	first, last := off/sector, (off+len(p)-1)/sector
	for i := first; i <= last; i++ {
		if m.open[i] == nil {
			m.open[i] = [][]byte{bytes.Clone(m.now[i*sector : (i+1)*sector])}
		}
	}
	copy(m.now[off:], p)
	for i := first; i <= last; i++ {
		after := bytes.Clone(m.now[i*sector : (i+1)*sector])
		m.allowed[i], m.open[i] = append(m.allowed[i], after), append(m.open[i], after)
	}
}

// killed says that what happened was a kill: every call that returned counts.
func (m *model) killed() {
	for i := range m.allowed {
		if m.allowed[i] = m.open[i]; m.allowed[i] == nil {
			m.allowed[i] = [][]byte{bytes.Clone(m.now[i*sector : (i+1)*sector])}
		}
	}
}

// recover compares the disk with what it may be, and takes it as it is.
func (m *model) recover(d blockdev.Device) error {
	if _, err := d.ReadAt(m.now, 0); err != nil {
		return fmt.Errorf("read after the crash: %w", err)
	}
next:
	for i, allowed := range m.allowed {
		got := m.now[i*sector : (i+1)*sector]
		for _, a := range allowed {
			if bytes.Equal(got, a) {
				continue next
			}
		}
		return fmt.Errorf("sector %d reads %x..., none of the %d contents that it may have, the last %x...",
			i, got[:16], len(allowed), allowed[len(allowed)-1][:16])
	}
	m.flushed()
	return nil
}

// A machine is an overlay on a medium with its model.
type machine struct {
	medium *overlaytest.Medium
	base   blockdev.Device
	opts   overlay.Options
	o      *overlay.Overlay
	model  *model
}

const crashDisk = 20*4096 + 1024 // bytes, of which the base has 2048 less

func newMachine() *machine {
	base := blockdevtest.Pattern(crashDisk-2048, 5)
	m := &machine{medium: overlaytest.NewMedium(), base: blockdevtest.NewMemory(base, nil)}
	m.opts = overlay.Options{Size: crashDisk, BaseID: "base", FS: m.medium}
	m.model = newModel(append(base, make([]byte, 2048)...))
	return m
}

// open opens the overlay after a crash, or makes it.
func (m *machine) open() error {
	var err error
	if m.o, err = overlay.Open("d", m.base, m.opts); errors.Is(err, fs.ErrNotExist) {
		m.o, err = overlay.Create("d", m.base, m.opts)
	}
	return err
}

// step makes one call drawn from r.
func (m *machine) step(r *rand.Rand) error {
	n := 1 + r.IntN(1<<(1+r.IntN(15)))
	off := r.IntN(crashDisk - n + 1)
	if r.IntN(3) > 0 {
		off = r.IntN(crashDisk/4096) * 4096
		n = min(4096*(1+r.IntN(6)), crashDisk-off)
	}
	switch r.IntN(14) {
	case 0, 1:
		m.model.change(make([]byte, n), off)
		return m.o.Discard(int64(off), int64(n))
	case 2:
		m.model.change(make([]byte, n), off)
		return m.o.WriteZeroes(int64(off), int64(n))
	case 3, 4, 5:
		err := m.o.Flush()
		if err == nil {
			m.model.flushed()
		}
		return err
	case 6, 7:
		s, err := m.o.Snapshot()
		if errors.Is(err, overlay.ErrLayers) {
			return m.o.Merge(context.Background(), 1)
		}
		if err != nil {
			return err
		}
		m.model.flushed()
		return s.Close()
	case 8:
		return m.o.Merge(context.Background(), 1+r.IntN(3))
	default:
		p := make([]byte, n)
		for i := range p {
			p[i] = byte(r.Uint32())
		}
		m.model.change(p, off)
		_, err := m.o.WriteAt(p, int64(off))
		return err
	}
}

// live makes calls until one fails, a restart among them.
func (m *machine) live(r *rand.Rand, calls int) error {
	if err := m.open(); err != nil {
		return err
	}
	for range calls {
		if err := m.step(r); err != nil {
			return err
		}
		m.model.returned()
	}
	if err := m.o.Close(); err != nil {
		return err
	}
	m.model.flushed()
	return nil
}

// reopen ends a life, and opens what is left. Some openings end as lives do.
func (m *machine) reopen(r *rand.Rand, kill bool) error {
	for killed := true; ; {
		if kill {
			m.medium.Kill()
		} else {
			m.medium.Crash(r)
			killed = false
		}
		if r.IntN(2) == 0 {
			m.medium.Cut(1 + r.IntN(12))
		}
		err := m.open()
		if errors.Is(err, overlaytest.ErrPower) {
			kill = r.IntN(4) > 0
			continue
		}
		if err != nil {
			return fmt.Errorf("open: %w", err)
		}
		m.medium.Cut(0)
		if killed {
			m.model.killed()
		}
		return m.model.recover(m.o)
	}
}

// crash ends a life, by kill -9 or a power cut, and looks at what is left. What was
// read then must stay, also over a second end.
func (m *machine) crash(r *rand.Rand, kill bool) error {
	for again := true; again; again = r.IntN(3) == 0 {
		if err := m.reopen(r, kill); err != nil {
			return err
		}
		kill = r.IntN(3) == 0
	}
	if r.IntN(2) == 0 {
		m.medium.Crash(r)
		return nil
	}
	return m.o.Close()
}

// crashRun is some lives of one overlay. Each but the last ends by a power cut or a
// kill, the first in the call that is the cut-th. It reports whether there was that
// call.
func crashRun(seed uint64, cut int, kill bool) (bool, error) {
	r := rand.New(rand.NewPCG(seed, 21))
	m := newMachine()
	for life := range 3 {
		if life > 0 {
			cut, kill = 1+r.IntN(60), r.IntN(3) == 0
		}
		m.medium.Cut(cut)
		err := m.live(rand.New(rand.NewPCG(seed, uint64(life))), 14)
		if err == nil && life == 0 {
			return false, nil
		}
		if err != nil && !errors.Is(err, overlaytest.ErrPower) {
			return true, fmt.Errorf("life %d: %w", life, err)
		}
		if err := m.crash(r, kill); err != nil {
			return true, fmt.Errorf("life %d: %w", life, err)
		}
	}
	return true, nil
}

// TestCrashes cuts the power in every call of many histories, and kills in every
// call.
func TestCrashes(t *testing.T) {
	defer overlay.SetMergeBlocks(3)()
	defer overlay.SetRecentRecords(16)()
	seeds := uint64(2)
	if testing.Short() {
		seeds = 1
	}
	for _, kill := range []bool{false, true} {
		runs := 0
		for seed := range seeds {
			for cut := 1; ; cut++ {
				there, err := crashRun(seed, cut, kill)
				if err != nil {
					t.Fatalf("history %d, ended in call %d, kill %t: %v", seed, cut, kill, err)
				}
				if !there {
					break
				}
				runs++
			}
		}
		if runs < int(seeds)*30 {
			t.Errorf("only %d ends", runs)
		}
		t.Logf("%d ends, kill %t", runs, kill)
	}
}

// FuzzCrash draws histories, cuts and kills.
func FuzzCrash(f *testing.F) {
	defer overlay.SetRecentRecords(16)()
	f.Add(uint64(1), uint16(7), false)
	f.Add(uint64(99), uint16(40), true)
	f.Fuzz(func(t *testing.T, seed uint64, cut uint16, kill bool) {
		if _, err := crashRun(seed, 1+int(cut)%200, kill); err != nil {
			t.Fatal(err)
		}
	})
}
