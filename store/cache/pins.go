package cache

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/rivuletfs/rivulet/chunk"
)

// MaxPins bounds how many chunks may be pinned.
const MaxPins = 1 << 20

var errTooMany = errors.New("at most half of the cap can be pinned")

// maxPinLine is the longest line of the pins file, newline included.
const maxPinLine = 64 + 1 + 20 + 1

// Pin keeps chunks that are held from being evicted, over restarts too, until
// Unpin. At most half of the cap can be pinned (ErrFull); a chunk that is not
// held whole is ErrNotFound. Either all are pinned or none. A pinned chunk that is
// lost to damage is pinned again when it comes back. Pin one image's chunks by
// one call: each writes and syncs the list of all pins.
func (c *Cache) Pin(ctx context.Context, ids ...chunk.ID) error {
	var uses []*opened // until they are pinned
	defer func() {
		for _, o := range uses {
			c.release(o)
		}
	}()
	return c.changePins(ctx, func(pins map[chunk.ID]int64) error {
		for _, id := range ids {
			e, err := c.find(id)
			if err == nil && e.extract != 0 {
				err = chunk.ErrNotFound
			}
			if err != nil {
				return fmt.Errorf("pin chunk %v: %w", id, err)
			}
			uses = append(uses, c.use(e))
			pins[id] = e.size
		}
		if c.tooMany(pins) {
			return fmt.Errorf("pin %d chunks: %w: %w", len(ids), ErrFull, errTooMany)
		}
		return nil
	})
}

// Unpin ends Pin. Chunks that are not pinned are no error.
func (c *Cache) Unpin(ctx context.Context, ids ...chunk.ID) error {
	return c.changePins(ctx, func(pins map[chunk.ID]int64) error {
		for _, id := range ids {
			delete(pins, id)
		}
		return nil
	})
}

// tooMany reports whether pins would leave too little for the rest.
func (c *Cache) tooMany(pins map[chunk.ID]int64) bool {
	return len(pins) > min(MaxPins, c.maxChunks/2) || sumCosts(pins) > c.max/2
}

func sumCosts(pins map[chunk.ID]int64) (sum int64) {
	for _, size := range pins {
		sum += Cost(size)
	}
	return sum
}

// changePins changes the pins by change, which is called with mu held, and
// writes them before they count.
func (c *Cache) changePins(ctx context.Context, change func(pins map[chunk.ID]int64) error) error {
	c.pinning.Lock()
	defer c.pinning.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	c.mu.Lock()
	pins := maps.Clone(c.pins) // only pinning's holder changes them
	err := change(pins)
	if err == nil {
		err = c.enter()
	}
	c.mu.Unlock()
	if err != nil {
		return err
	}
	defer c.running.Done()
	if err := c.replace(pinsFile, appendPins(nil, pins), true); err != nil {
		return fmt.Errorf("write pins: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.pins
	c.pins, c.pinBytes = pins, sumCosts(pins)
	for id := range pins {
		if _, ok := old[id]; !ok {
			c.setPinned(id, true)
		}
	}
	for id := range old {
		if _, ok := pins[id]; !ok {
			c.setPinned(id, false)
		}
	}
	return nil
}

// setPinned pins an entry or ends that. Pinned ones are no business of the
// policy. mu is held.
func (c *Cache) setPinned(id chunk.ID, pinned bool) {
	e := c.entries[id]
	if e == nil {
		return
	}
	c.keep(e, func() { e.pinned = pinned })
	if pinned {
		c.policy.Remove(id, false)
	} else {
		c.policy.Insert(id, e.cost(), c.now())
	}
	c.changes++
}

// appendPins encodes pins, a line each, in order.
func appendPins(b []byte, pins map[chunk.ID]int64) []byte {
	ids := slices.SortedFunc(maps.Keys(pins), func(a, b chunk.ID) int { return bytes.Compare(a[:], b[:]) })
	for _, id := range ids {
		b = fmt.Appendf(b, "%v %d\n", id, pins[id])
	}
	return b
}

func parsePins(b []byte) (map[chunk.ID]int64, error) {
	pins := make(map[chunk.ID]int64)
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		first, last, _ := strings.Cut(lines.Text(), " ")
		id, err := chunk.ParseID(first)
		if err != nil {
			return nil, err
		}
		size, err := strconv.ParseInt(last, 10, 64)
		if err != nil || size < 1 || size > chunk.MaxStoredSize {
			return nil, fmt.Errorf("pin %v: size %q", id, last)
		}
		pins[id] = size
	}
	if len(pins) > MaxPins {
		return nil, fmt.Errorf("%d pins, at most %d are allowed", len(pins), MaxPins)
	}
	return pins, lines.Err()
}

// loadPins reads the pins. Damaged, or too many for the cap, they are not used:
// to serve without pins is better than not to serve.
func (c *Cache) loadPins() {
	b, err := c.readFile(c.path(pinsFile), MaxPins*maxPinLine)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var pins map[chunk.ID]int64
	if err == nil {
		pins, err = parsePins(b)
	}
	if err == nil && c.tooMany(pins) { // the cap was larger
		err = errTooMany
	}
	if err != nil {
		c.logger.Error("cache: pins are not used", "error", err)
		return
	}
	c.pins, c.pinBytes = pins, sumCosts(pins)
	for id := range pins {
		if e := c.entries[id]; e != nil {
			c.keep(e, func() { e.pinned = true })
		}
	}
}
