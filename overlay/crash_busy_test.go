package overlay_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/rivuletfs/rivulet/overlay"
	"github.com/rivuletfs/rivulet/overlay/overlaytest"
)

// busyPart is the bytes of the disk that one of three writers has; parts meet
// within a block.
const busyPart = crashDisk / 3 &^ (sector - 1)

// busyStep makes one call within a writer's part, as machine.step does.
func busyStep(m *machine, own *model, from int, r *rand.Rand) error {
	n := 1 + r.IntN(1<<(1+r.IntN(14)))
	off := from + r.IntN(busyPart-n+1)
	switch r.IntN(8) {
	case 0, 1:
		own.change(make([]byte, n), off)
		return m.o.Discard(int64(off), int64(n))
	case 2:
		err := m.o.Flush()
		if err == nil {
			own.flushed()
		}
		return err
	case 3:
		if r.IntN(4) > 0 {
			return nil
		}
		s, err := m.o.Snapshot()
		if err != nil {
			return err
		}
		own.flushed()
		return errors.Join(s.Close(), m.o.Merge(context.Background(), 2))
	}
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	own.change(p, off)
	_, err := m.o.WriteAt(p, int64(off))
	return err
}

// TestCrashesBusy cuts the power or kills while three writers change, flush and freeze the
// disk, each with a model of its own part.
func TestCrashesBusy(t *testing.T) {
	defer overlay.SetMergeBlocks(3)()
	defer overlay.SetRecentRecords(16)()
	runs := uint64(16)
	if testing.Short() {
		runs = 4
	}
	for seed := range runs {
		if err := crashBusy(seed); err != nil {
			t.Fatalf("run %d: %v", seed, err)
		}
	}
}

func crashBusy(seed uint64) error {
	r := rand.New(rand.NewPCG(seed, 31))
	m := newMachine()
	if err := m.open(); err != nil {
		return err
	}
	for life := range 4 {
		m.medium.Cut(1 + r.IntN(120))
		models := make([]*model, 3)
		errs := make([]error, 3)
		var wg sync.WaitGroup
		for w := range models {
			models[w] = newModel(m.model.now)
			wr := rand.New(rand.NewPCG(r.Uint64(), 0))
			wg.Go(func() {
				for errs[w] == nil {
					models[w].returned()
					errs[w] = busyStep(m, models[w], w*busyPart, wr)
				}
			})
		}
		wg.Wait()
		if err := errors.Join(errs...); !errors.Is(err, overlaytest.ErrPower) {
			return fmt.Errorf("life %d: %w", life, err)
		}
		if kill := r.IntN(2) == 0; kill {
			m.medium.Kill()
			for _, own := range models {
				own.killed()
			}
		} else {
			m.medium.Crash(r)
		}
		if err := m.open(); err != nil {
			return fmt.Errorf("open after life %d: %w", life, err)
		}
		// Each sector as its writer allows; what is nobody's has not changed.
		for i := range m.model.allowed {
			if w := i * sector / busyPart; w < len(models) {
				m.model.allowed[i] = models[w].allowed[i]
			}
		}
		if err := m.model.recover(m.o); err != nil {
			return fmt.Errorf("after life %d: %w", life, err)
		}
	}
	return m.o.Close()
}
