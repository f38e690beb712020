package overlay

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"reflect"
	"strings"
	"testing"
)

// vectorIndex is the index of doc/format/overlay.md.
func vectorIndex() (*indexHeader, stateMap) {
	key := make([]byte, KeySize)
	for i := range key {
		key[i] = byte(i)
	}
	check, _ := keyCheck(key)
	h := &indexHeader{
		epoch: 0x1122334455667788, size: 1<<20 + 512, baseSize: 1 << 20, check: check, baseID: "sha256:00",
		layers: []layerInfo{{id: 1, blocks: 3, slot: 1}, {id: 0xfeedfacecafebeef, blocks: 2, slot: 0}},
	}
	m := newStateMap(h.blocks())
	m.set(1, 2, firstLayer+1)
	m.set(3, 1, stateDrop) // is stored as zero
	m.set(4, 1, stateZero)
	m.set(256, 1, firstLayer)
	return h, m
}

var vectorBatch = []change{
	{block: 5, n: 3, state: firstLayer},
	{block: 0, n: 1 << 20, state: stateZero},
}

// TestVectors compares with what the page has.
func TestVectors(t *testing.T) {
	page, err := os.ReadFile("../doc/format/overlay.md")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(string(page)), "")
	h, m := vectorIndex()
	key := make([]byte, KeySize)
	for i := range key {
		key[i] = byte(i)
	}
	c, err := newSectorCipher(key, 1)
	if err != nil {
		t.Fatal(err)
	}
	sector := make([]byte, sectorSize)
	c.encrypt(sector, sector, 7*sectorSize)
	batch := appendBatch(nil, h.epoch, 1, vectorBatch)
	for name, b := range map[string][]byte{
		"index":                encodeIndex(h, &m),
		"key check":            h.check[:],
		"sector of zeros":      sector[:32],
		"checksum of a sector": crc(sector),
		"head of recent":       appendRecentHead(nil, maxRecent, [16]byte(key))[:recentFixed],
		"mark":                 appendRecent(nil, vectorRecent[0]),
		"recent data":          appendRecent(nil, vectorRecent[1]),
		"recent layer":         appendRecent(nil, vectorRecent[2]),
		"begin of a batch":     batch[:journalFixed+2*changeRecord],
		"checksum of a batch":  batch[sectorSize-4:],
	} {
		if want := hex.EncodeToString(b); !strings.Contains(text, want) {
			t.Errorf("the page lacks the %s: %s", name, want)
		}
	}
}

func crc(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(nil, crc32.Checksum(b, castagnoli))
}

// TestIndex encodes maps of all kinds and reads them back.
func TestIndex(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	h, _ := vectorIndex()
	h.size = 3*pageBlocks*blockSize - 512
	for i := range 12 {
		m := newStateMap(h.blocks())
		want := newStateMap(h.blocks())
		for range 1 << min(i, 14) {
			state := []uint8{stateBase, stateZero, stateDrop, stateReady, firstLayer, firstLayer + 1}[r.IntN(6)]
			n := 1 + r.Int64N(1<<r.IntN(12))
			block := r.Int64N(h.blocks() - n + 1)
			m.set(block, n, state)
			want.set(block, n, stored(state))
		}
		b := encodeIndex(h, &m)
		got, states, err := readIndex(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatalf("map %d: %v", i, err)
		}
		if !reflect.DeepEqual(got, h) {
			t.Errorf("map %d: header %+v, want %+v", i, got, h)
		}
		for block := range h.blocks() {
			if states.get(block) != want.get(block) {
				t.Fatalf("map %d: block %d is %d, want %d", i, block, states.get(block), want.get(block))
			}
		}
	}
}

// TestStateMap compares runs, loads and shares with a plain list.
func TestStateMap(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	const blocks = 2*pageBlocks + 100
	m, want := newStateMap(blocks), make([]uint8, blocks)
	var shared stateMap
	var frozen []uint8
	for i := range 300 {
		n := 1 + r.Int64N(1<<r.IntN(16))
		block := r.Int64N(blocks - n + 1)
		state := uint8(r.IntN(3))
		m.set(block, n, state)
		for j := range n {
			want[block+j] = state
		}
		if i == 150 {
			shared, frozen = m.share(), bytes.Clone(want)
		}
	}
	for _, c := range []struct {
		m    *stateMap
		want []uint8
	}{{&m, want}, {&shared, frozen}} {
		for b := int64(0); b < blocks; {
			state, n := c.m.run(b, blocks)
			if n < 1 || b+n > blocks || b+n < blocks && c.want[b+n] == state || bytes.Count(c.want[b:b+n], []byte{state}) != int(n) {
				t.Fatalf("run at %d: %d blocks of %d", b, n, state)
			}
			b += n
		}
		if got := c.m.count(1); got != int64(bytes.Count(c.want, []byte{1})) {
			t.Errorf("count: %d", got)
		}
	}
}

// TestJournal writes batches and reads them back, whole and cut off.
func TestJournal(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	var batches [][]change
	var log []byte
	for number := uint64(1); len(log) < 100*sectorSize; number++ {
		batch := make([]change, 1+r.IntN(100))
		for i := range batch {
			batch[i] = change{block: r.Int64N(1 << 30), n: 1 + r.Int64N(1<<20), state: uint8(r.IntN(2))*(firstLayer-1) + 1}
		}
		batches = append(batches, batch)
		log = appendBatch(log, 7, number, batch)
	}
	replay := func(b []byte) (got []change, err error) {
		_, err = replayJournal(b, 7, 1<<31, firstLayer, func(c change) { got = append(got, c) })
		return got, err
	}
	full := append(bytes.Clone(log), make([]byte, 50*sectorSize)...)
	var all []change
	for _, b := range batches {
		all = append(all, b...)
	}
	if got, err := replay(full); err != nil || !reflect.DeepEqual(got, all) {
		t.Fatalf("%d changes of %d, %v", len(got), len(all), err)
	}
	// Any of the last batch's sectors may be missing.
	last := batches[len(batches)-1]
	before := all[:len(all)-len(last)]
	for mask := range 1<<batchSectors(len(last)) - 1 {
		b := bytes.Clone(full)
		for i := range batchSectors(len(last)) {
			if mask>>i&1 == 0 {
				clear(b[len(log)-(i+1)*sectorSize:][:sectorSize])
			}
		}
		if got, err := replay(b); err != nil || len(got) != len(before) {
			t.Fatalf("torn by %b: %d changes, want %d; %v", mask, len(got), len(before), err)
		}
	}
	// A sector before that may not.
	for i := range len(log)/sectorSize - batchSectors(len(last)) {
		b := bytes.Clone(full)
		clear(b[i*sectorSize:][:sectorSize])
		if _, err := replay(b); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("sector %d is gone: %v", i, err)
		}
	}
	if got, err := replayAs(full, 8); err != nil || len(got) != 0 {
		t.Errorf("of another epoch: %d changes, %v", len(got), err)
	}
}

func replayAs(b []byte, epoch uint64) (got []change, err error) {
	_, err = replayJournal(b, epoch, 1<<31, firstLayer, func(c change) { got = append(got, c) })
	return got, err
}

// FuzzIndex reads any bytes, with good checksums, and checks that what is accepted
// is written the same.
func FuzzIndex(f *testing.F) {
	h, m := vectorIndex()
	f.Add(encodeIndex(h, &m))
	h.size = 4 * pageBlocks * blockSize
	m = newStateMap(h.blocks())
	m.set(3, 2*pageBlocks, firstLayer)
	f.Add(encodeIndex(h, &m))
	f.Fuzz(func(t *testing.T, b []byte) {
		b = bytes.Clone(b)
		le := binary.LittleEndian
		if len(b) >= indexFixed {
			head := indexFixed + int(le.Uint16(b[52:]))*layerRecord + int(le.Uint16(b[54:]))
			if head+8 <= len(b) {
				le.PutUint32(b[head:], crc32.Checksum(b[:head], castagnoli))
				le.PutUint32(b[len(b)-4:], crc32.Checksum(b[head+4:len(b)-4], castagnoli))
			}
		}
		h, m, err := readIndex(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("not called damage: %v", err)
			}
			return
		}
		if got := encodeIndex(h, &m); !bytes.Equal(got, b) {
			t.Errorf("read and written again: %x, was %x", got, b)
		}
	})
}

// FuzzJournal replays any sectors, with good checksums, and checks that what is
// applied lies within the disk.
func FuzzJournal(f *testing.F) {
	f.Add(appendBatch(nil, 7, 1, vectorBatch), uint8(0))
	f.Add(append(appendBatch(nil, 7, 1, vectorBatch), appendBatch(nil, 7, 2, make([]change, 40))...), uint8(1))
	f.Fuzz(func(t *testing.T, b []byte, bad uint8) {
		if len(b) > 64*sectorSize {
			return
		}
		b = append(bytes.Clone(b), make([]byte, (sectorSize-len(b)%sectorSize)%sectorSize)...)
		for i := 0; i < len(b); i += sectorSize {
			copy(b[i:], journalMagic)
			binary.LittleEndian.PutUint64(b[i+4:], 7)
			if i/sectorSize != int(bad)-1 {
				copy(b[i+sectorSize-4:], crc(b[i:i+sectorSize-4]))
			}
		}
		const blocks = 1 << 21
		_, err := replayJournal(b, 7, blocks, firstLayer, func(c change) {
			if c.n < 1 || c.block < 0 || c.block+c.n > blocks || c.state != stateZero && c.state != firstLayer {
				t.Errorf("applied %+v", c)
			}
		})
		if err != nil && !errors.Is(err, ErrCorrupt) {
			t.Errorf("not called damage: %v", err)
		}
	})
}

// vectorRecent are records of doc/format/overlay.md.
var vectorRecent = []recentChange{
	{number: 7, a: 0x1122334455667788, kind: recentMark},
	{number: 8, a: 5, b: 3, kind: firstLayer},
	{number: 9, a: 0xfeedfacecafebeef, b: 2, kind: recentLayer},
}

// TestRecent replays records behind marks that hold and marks that do not.
func TestRecent(t *testing.T) {
	const records = 16
	for first := uint64(1); first < 2*records; first++ { // wherever the ring begins
		ring := make([]byte, records*recentRecord)
		number := first
		put := func(kind uint8, a, b uint64) {
			copy(ring[number%records*recentRecord:], appendRecent(nil, recentChange{number: number, a: a, b: b, kind: kind}))
			number++
		}
		for range records { // of an earlier round
			put(stateZero, 9, 9)
		}
		put(recentMark, 70, 0)
		put(firstLayer, 1, 1)
		put(recentMark, 70, 1)
		put(firstLayer, 2, 1)
		put(recentMark, 70, 2)
		put(recentLayer, 5, 1)
		put(recentMark, 71, 0)
		put(firstLayer+1, 3, 1)
		put(recentMark, 71, 1)
		for _, c := range []struct {
			epoch, batch uint64
			want         []uint64 // a of those that count
			next         uint64   // records before number
		}{
			{70, 0, []uint64{1, 2, 5, 3}, 1},
			{70, 1, []uint64{2, 5, 3}, 1},
			{70, 2, []uint64{5, 3}, 1},
			{71, 0, []uint64{3}, 1},
			{71, 1, nil, 0},
			{72, 0, nil, 0},
		} {
			changes, next, err := replayRecent(ring, c.epoch, c.batch)
			var got []uint64
			for _, change := range changes {
				got = append(got, change.a)
			}
			if err != nil || !reflect.DeepEqual(got, c.want) || next != number-c.next {
				t.Errorf("epoch %d, batch %d: %v, next %d, %v; want %v, next %d", c.epoch, c.batch, got, next, err, c.want, number-c.next)
			}
		}
	}
}

// FuzzRecent replays any records, with good checksums, and checks that those behind
// the mark are all there, in order.
func FuzzRecent(f *testing.F) {
	var ring []byte
	for _, c := range vectorRecent {
		ring = appendRecent(ring, c)
	}
	f.Add(ring, uint16(0))
	f.Add(append(ring, make([]byte, 16*recentRecord)...), uint16(2))
	f.Fuzz(func(t *testing.T, b []byte, bad uint16) {
		ring := make([]byte, minRecent*recentRecord)
		copy(ring, b)
		for i := range minRecent {
			if r := ring[i*recentRecord:][:recentRecord]; bad>>i&1 == 0 {
				copy(r[28:], crc(r[:28]))
			}
		}
		epoch := binary.LittleEndian.Uint64(ring[8:])
		changes, next, err := replayRecent(ring, epoch, 3)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("not called damage: %v", err)
			}
			return
		}
		if next == 0 || len(changes) > minRecent {
			t.Errorf("%d changes, next %d", len(changes), next)
		}
		for i, c := range changes {
			if c.kind == recentMark || c.number >= next || i > 0 && c.number <= changes[i-1].number {
				t.Errorf("change %d is %+v, next %d", i, c, next)
			}
			if again := appendRecent(nil, c); !bytes.Contains(ring, again) {
				t.Errorf("change %d is %+v, which is nowhere", i, c)
			}
		}
		parseRecentHead(ring, [16]byte(ring[8:]))
	})
}
