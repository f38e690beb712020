package overlay

// spanBlocks bounds the blocks that are locked for one hole, of different
// stripes each.
const spanBlocks = 64 * regionBlocks

// giveBack punches what was zeroed and is so by the index on disk. The caller has
// the flusher, so the index stays as it is meanwhile. Blocks that are just being
// written wait for the next time: nobody who flushes waits for a writer, who may
// wait for the base.
func (o *Overlay) giveBack(zeroed []change) {
	again := o.flusher.waiting
	o.flusher.waiting = nil
	o.mu.Lock()
	for _, c := range zeroed {
		if !c.drop {
			continue
		}
		again = append(again, c)
		for b, end := c.block, c.block+c.n; b < end; {
			state, n := o.states.run(b, end)
			// Whatever has happened to the block since the batch, the index on disk
			// calls it zero, and so does the map.
			if state == stateDrop {
				o.states.set(b, n, stateReady)
			}
			b += n
		}
	}
	o.mu.Unlock()
	for _, c := range again {
		o.punchRun(c)
	}
}

// punchRun punches the ready blocks of a run.
func (o *Overlay) punchRun(c change) {
	for b, end := c.block, c.block+c.n; b < end; {
		from := b
		for b < end && b-from < spanBlocks-regionBlocks {
			n := min(end-b, regionBlocks-b%regionBlocks)
			if !o.locks.tryLock(b, n) {
				break
			}
			b += n
		}
		if b == from {
			n := min(end-b, regionBlocks-b%regionBlocks)
			o.flusher.waiting = append(o.flusher.waiting, change{block: b, n: n, drop: true})
			b += n
			continue
		}
		o.punchReady(from, b)
		for at := from; at < b; {
			n := min(b-at, regionBlocks-at%regionBlocks)
			o.locks.unlock(at, n)
			at += n
		}
	}
}

// punchReady punches what is ready of locked blocks. A hole that cannot be made
// leaves its blocks counted, and good for the next write to them.
func (o *Overlay) punchReady(from, end int64) {
	for b := from; b < end; {
		o.mu.RLock()
		state, n := o.states.run(b, end)
		o.mu.RUnlock()
		if state == stateReady && o.top.file.Punch(b*blockSize, n*blockSize) == nil {
			o.mu.Lock()
			o.states.set(b, n, stateZero)
			o.charge(o.top, -n)
			o.mu.Unlock()
		}
		b += n
	}
}

// charge counts blocks of a layer; the caller has mu.
func (o *Overlay) charge(l *layer, blocks int64) {
	l.blocks += blocks
	o.used += blocks * blockSize
}

// reserve counts blocks that are to take space by a change, if the quota has
// room, and the change can be noted.
func (o *Overlay) reserve(l *layer, blocks int64, unbounded bool) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if blocks > 0 && o.quota > 0 && !unbounded && o.used+blocks*blockSize > o.quota {
		return ErrQuota
	}
	if err := o.recent.promise(); err != nil {
		return err
	}
	o.charge(l, blocks)
	return nil
}

// reclaim gives back what is zeroed and still takes space.
func (o *Overlay) reclaim() error {
	if err := o.flush(); err != nil {
		return err
	}
	return o.flusher.exclusively(func() error {
		o.giveBack(nil)
		return nil
	})
}
