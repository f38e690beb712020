// Package evicttest has the suite that every eviction policy passes.
package evicttest

import (
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/store/cache/evict"
)

// ID returns the n-th of a row of names.
func ID(n uint64) chunk.ID { return sha256.Sum256(binary.LittleEndian.AppendUint64(nil, n)) }

func all(chunk.ID) bool { return true }

// TestPolicy tests a policy. open returns an empty one, always the same kind.
func TestPolicy(t *testing.T, open func() evict.Policy) {
	t.Run("Model", func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) { checkModel(t, open) })
	})
	t.Run("Drain", func(t *testing.T) { testDrain(t, open()) })
	t.Run("KeepsTheHot", func(t *testing.T) { testHot(t, open()) })
	t.Run("HistoryIsBounded", func(t *testing.T) { testHistory(t, open()) })
	t.Run("Nonsense", func(t *testing.T) { testNonsense(t, open()) })
}

// checkModel compares a policy with the set of what it ought to hold, and a
// second one that is told the same, by way of records half of the time.
func checkModel(t *rapid.T, open func() evict.Policy) {
	p, twin := open(), open()
	held := map[chunk.ID]int64{}
	now := time.Duration(0)
	for range rapid.IntRange(1, 200).Draw(t, "steps") {
		now += time.Duration(rapid.Int64Range(0, 3).Draw(t, "time")) * time.Second
		id := ID(rapid.Uint64Range(0, 15).Draw(t, "chunk"))
		switch rapid.IntRange(0, 9).Draw(t, "operation") {
		case 0, 1, 2:
			size := rapid.Int64Range(1, 100).Draw(t, "size")
			p.Insert(id, size, now)
			twin.Insert(id, size, now)
			if held[id] == 0 {
				held[id] = size
			}
		case 3, 4, 5:
			p.Access(id, now)
			twin.Access(id, now)
		case 6, 7:
			victim(t, p, twin, held, now, rapid.IntRange(0, 3).Draw(t, "kept"))
		case 8:
			evicted := rapid.Bool().Draw(t, "evicted")
			p.Remove(id, evicted)
			twin.Remove(id, evicted)
			delete(held, id)
		case 9:
			twin = copyOf(twin, open())
		}
		sum := int64(0)
		for _, size := range held {
			sum += size
		}
		if p.Len() != len(held) || p.Bytes() != sum || p.History() < 0 {
			t.Fatalf("Len %d, Bytes %d, History %d; want %d, %d", p.Len(), p.Bytes(), p.History(), len(held), sum)
		}
		if !slices.Equal(records(p), records(twin)) {
			t.Fatalf("not the same after Restore:\n%v\n%v", records(p), records(twin))
		}
	}
}

// victim asks both for a victim, of which one in kept chunks is none, and
// evicts it.
func victim(t *rapid.T, p, twin evict.Policy, held map[chunk.ID]int64, now time.Duration, kept int) {
	evictable := func(id chunk.ID) bool { return kept == 0 || int(id[0])%kept != 0 }
	some := false
	for id := range held {
		some = some || evictable(id)
	}
	id, ok := p.Victim(now, evictable)
	if ok != some {
		t.Fatalf("Victim = %v, though it is %v that some may go", ok, some)
	}
	if twice, _ := twin.Victim(now, evictable); twice != id {
		t.Fatalf("equal policies give up %v and %v", id, twice)
	}
	if !ok {
		return
	}
	if held[id] == 0 || !evictable(id) {
		t.Fatalf("Victim is %v, which may not go", id)
	}
	p.Remove(id, true)
	twin.Remove(id, true)
	delete(held, id)
}

func records(p evict.Policy) (list []evict.Record) {
	p.Snapshot(func(r evict.Record) { list = append(list, r) })
	return list
}

func copyOf(p, empty evict.Policy) evict.Policy {
	for _, r := range records(p) {
		empty.Restore(r)
	}
	return empty
}

// testDrain evicts until nothing is left: each chunk once.
func testDrain(t *testing.T, p evict.Policy) {
	rng := rand.New(rand.NewPCG(1, 2))
	const n = 1000
	for i := range uint64(n) {
		p.Insert(ID(i), 1, time.Duration(i)*time.Second)
	}
	for range 5 * n {
		p.Access(ID(rng.Uint64N(n)), time.Duration(n+rng.Uint64N(100))*time.Second)
	}
	seen := map[chunk.ID]bool{}
	for range n {
		id, ok := p.Victim(3*n*time.Second, all)
		if !ok || seen[id] {
			t.Fatalf("victim %d: %v, %v, or it went before", len(seen), id, ok)
		}
		seen[id] = true
		p.Remove(id, true)
	}
	if id, ok := p.Victim(3*n*time.Second, all); ok || p.Len() != 0 || p.Bytes() != 0 {
		t.Errorf("Victim of nothing: %v; Len %d, Bytes %d", id, p.Len(), p.Bytes())
	}
}

// testHot asks for few chunks all the time and for many once: every policy
// keeps the few.
func testHot(t *testing.T, p evict.Policy) {
	const hot, capacity = 10, 100
	for i := range uint64(5000) {
		now := time.Duration(i) * time.Minute
		for h := range uint64(hot) {
			if i == 0 {
				p.Insert(ID(h), 1, now)
			}
			p.Access(ID(h), now)
		}
		p.Insert(ID(1000+i), 1, now)
		for p.Bytes() > capacity {
			id, _ := p.Victim(now, all)
			p.Remove(id, true)
		}
	}
	held := map[chunk.ID]bool{}
	for _, r := range records(p) {
		held[r.ID] = r.Held
	}
	for h := range uint64(hot) {
		if !held[ID(h)] {
			t.Errorf("hot chunk %d is gone", h)
		}
	}
}

// testHistory evicts many: what is remembered stays in proportion.
func testHistory(t *testing.T, p evict.Policy) {
	const capacity = 50
	for i := range uint64(20_000) {
		p.Insert(ID(i), 1, time.Duration(i)*time.Millisecond)
		if p.Len() > capacity {
			id, _ := p.Victim(time.Duration(i)*time.Millisecond, all)
			p.Remove(id, true)
		}
	}
	if p.History() > 10*capacity {
		t.Errorf("%d chunks are remembered for %d that are held", p.History(), p.Len())
	}
}

// testNonsense restores records that make no sense; the policy goes on.
func testNonsense(t *testing.T, p evict.Policy) {
	rng := rand.New(rand.NewPCG(3, 4))
	for i := range uint64(200) {
		r := evict.Record{ID: ID(i / 2), Size: 7, Held: i%3 > 0, Queue: uint8(rng.Uint32()), Refs: uint8(rng.Uint32())}
		for k := range r.Times {
			r.Times[k] = time.Duration(rng.Uint64())
		}
		p.Restore(r)
	}
	want := p.Len()
	for i := range want {
		id, ok := p.Victim(time.Duration(i)*time.Second, all)
		if !ok {
			t.Fatalf("no victim, with %d left", p.Len())
		}
		p.Remove(id, true)
		p.Insert(ID(1000+uint64(i)), 7, time.Duration(i)*time.Second)
	}
	if p.Len() != want || p.Bytes() != int64(want)*7 {
		t.Errorf("Len %d, Bytes %d; want %d", p.Len(), p.Bytes(), want)
	}
}
