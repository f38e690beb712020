package disk

import "time"

// Waiting returns how many pieces of frames reads wait for at this moment, and for
// how long the first of them does; 0 for none.
func (d *Disk) Waiting() (pieces int, longest time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range d.flights {
		waits := 0
		for i := range f.slots {
			waits += f.slots[i].waits
		}
		if waits > 0 {
			pieces += waits
			longest = max(longest, time.Since(f.demanded))
		}
	}
	return pieces, longest
}
