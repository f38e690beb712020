package overlay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/rivuletfs/rivulet/blockdev"
)

// The index file, doc/format/overlay.md.
const (
	indexMagic   = "rvo1"
	indexFixed   = 64
	layerRecord  = 24
	pageRecord   = 8
	runRecord    = 6
	maxBaseID    = 256
	maxRuns      = pageBlocks / runRecord // a page with more is stored as it is
	flagClean    = 1
	maxSize      = 1 << 46 // bytes of a disk
	journalUnits = 2048    // sectors of the journal
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A layerInfo is what the index says of a layer.
type layerInfo struct {
	id     uint64
	blocks int64 // that its file has, as far as is known
	slot   int
}

func (l *layerInfo) state() uint8 { return firstLayer + uint8(l.slot) }

// An indexHeader is the index without the map.
type indexHeader struct {
	clean    bool // closed in good order: the file of the top layer has nothing that the map does not name
	epoch    uint64
	size     int64
	baseSize int64
	check    [16]byte
	baseID   string
	layers   []layerInfo // oldest first, the top last
}

func (h *indexHeader) blocks() int64 { return (h.size + blockSize - 1) >> blockShift }

// known reports for every state whether it may stand in the map.
func (h *indexHeader) known() (known [256]bool) {
	known[stateBase], known[stateZero] = true, true
	for i := range h.layers {
		known[h.layers[i].state()] = true
	}
	return known
}

// encodeIndex returns the bytes of an index.
func encodeIndex(h *indexHeader, m *stateMap) []byte {
	b := make([]byte, indexFixed, 4096)
	copy(b, indexMagic)
	if h.clean {
		b[4] = flagClean
	}
	le := binary.LittleEndian
	le.PutUint64(b[8:], h.epoch)
	le.PutUint64(b[16:], uint64(h.size))
	le.PutUint64(b[24:], uint64(h.baseSize))
	copy(b[32:48], h.check[:])
	le.PutUint32(b[48:], journalUnits)
	le.PutUint16(b[52:], uint16(len(h.layers)))
	le.PutUint16(b[54:], uint16(len(h.baseID)))
	for i := range h.layers {
		l := &h.layers[i]
		b = le.AppendUint64(b, l.id)
		b = le.AppendUint64(b, uint64(l.blocks))
		b = append(b, byte(l.slot), 0, 0, 0, 0, 0, 0, 0)
	}
	b = append(b, h.baseID...)
	head := len(b)
	b = le.AppendUint32(b, 0)
	for i, p := range m.pages {
		if p != nil {
			b = appendPage(b, uint32(i), &p.states)
		}
	}
	body := b[head+4:]
	le.PutUint64(b[56:], uint64(len(body)))
	le.PutUint32(b[head:], crc32.Checksum(b[:head], castagnoli))
	return le.AppendUint32(b, crc32.Checksum(body, castagnoli))
}

// stored returns a state as the index has it.
func stored(state uint8) uint8 {
	if state == stateDrop || state == stateReady {
		return stateZero
	}
	return state
}

func appendPage(b []byte, number uint32, states *[pageBlocks]uint8) []byte {
	le := binary.LittleEndian
	begin := len(b)
	b = le.AppendUint32(b, number)
	b = le.AppendUint32(b, 0)
	runs := 0
	for at := 0; at < pageBlocks; {
		state, end := stored(states[at]), at+1
		for end < pageBlocks && stored(states[end]) == state {
			end++
		}
		if state != stateBase {
			if runs++; runs > maxRuns {
				b = b[:begin+pageRecord]
				for _, s := range states {
					b = append(b, stored(s))
				}
				return b
			}
			b = le.AppendUint16(b, uint16(at))
			b = le.AppendUint16(b, uint16(end-at-1))
			b = append(b, state, 0)
		}
		at = end
	}
	if runs == 0 {
		return b[:begin]
	}
	le.PutUint16(b[begin+4:], uint16(runs))
	return b
}

func corrupt(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrCorrupt}, a...)...)
}

// readIndexHeader reads and checks the header. It returns also where the map
// begins, and the map's length.
func readIndexHeader(r io.ReaderAt, fileSize int64) (h *indexHeader, at, length int64, err error) {
	var fixed [indexFixed]byte
	if err := readPart(r, fixed[:], 0); err != nil {
		return nil, 0, 0, err
	}
	if string(fixed[:4]) != indexMagic {
		return nil, 0, 0, corrupt("index begins with %q, want %q", fixed[:4], indexMagic)
	}
	le := binary.LittleEndian
	layers, idLength := int64(le.Uint16(fixed[52:])), int64(le.Uint16(fixed[54:]))
	if layers < 1 || layers > maxLayers || idLength > maxBaseID {
		return nil, 0, 0, corrupt("index has %d layers and a base's name of %d bytes", layers, idLength)
	}
	b := make([]byte, indexFixed+layers*layerRecord+idLength+4)
	if err := readPart(r, b, 0); err != nil {
		return nil, 0, 0, err
	}
	head := len(b) - 4
	if le.Uint32(b[head:]) != crc32.Checksum(b[:head], castagnoli) {
		return nil, 0, 0, corrupt("index: checksum of the header")
	}
	h = &indexHeader{
		clean:    b[4] == flagClean,
		epoch:    le.Uint64(b[8:]),
		size:     int64(le.Uint64(b[16:])),
		baseSize: int64(le.Uint64(b[24:])),
		check:    [16]byte(b[32:48]),
		baseID:   string(b[head-int(idLength) : head]),
	}
	if b[4]&^flagClean != 0 || b[5] != 0 || b[6] != 0 || b[7] != 0 || le.Uint32(b[48:]) != journalUnits {
		return nil, 0, 0, corrupt("index: flags or size of the journal")
	}
	if !validSize(h.size) || h.baseSize < 0 || h.baseSize > h.size || h.baseSize%blockdev.SectorSize != 0 {
		return nil, 0, 0, corrupt("index: disk of %d bytes over one of %d", h.size, h.baseSize)
	}
	seen := map[int]bool{}
	for i := range layers {
		rec := b[indexFixed+i*layerRecord:][:layerRecord]
		l := layerInfo{id: le.Uint64(rec), blocks: int64(le.Uint64(rec[8:])), slot: int(rec[16])}
		if l.slot >= maxLayers || seen[l.slot] || l.blocks < 0 || l.blocks > h.blocks() || le.Uint64(rec[16:])>>8 != 0 {
			return nil, 0, 0, corrupt("index: layer %d", i)
		}
		seen[l.slot] = true
		h.layers = append(h.layers, l)
	}
	at, length = int64(len(b)), int64(le.Uint64(b[56:]))
	// So much is there, and it is no more than all pages take.
	pages := (h.blocks() + pageBlocks - 1) >> pageShift
	if length < 0 || length > pages*(pageRecord+pageBlocks) || fileSize != at+length+4 {
		return nil, 0, 0, corrupt("index of %d bytes: map of %d", fileSize, length)
	}
	return h, at, length, nil
}

func validSize(size int64) bool {
	return size >= 0 && size <= maxSize && size%blockdev.SectorSize == 0
}

// readIndex reads and checks an index whole.
func readIndex(r io.ReaderAt, fileSize int64) (*indexHeader, stateMap, error) {
	h, at, length, err := readIndexHeader(r, fileSize)
	if err != nil {
		return nil, stateMap{}, err
	}
	b := make([]byte, length+4)
	if err := readPart(r, b, at); err != nil {
		return nil, stateMap{}, err
	}
	body := b[:length]
	if binary.LittleEndian.Uint32(b[length:]) != crc32.Checksum(body, castagnoli) {
		return nil, stateMap{}, corrupt("index: checksum of the map")
	}
	m, err := parseMap(body, h)
	return h, m, err
}

// readPart reads all of p, which a whole index has.
func readPart(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return corrupt("index is cut short")
	}
	return fmt.Errorf("read index: %w", err)
}

func parseMap(b []byte, h *indexHeader) (stateMap, error) {
	m := newStateMap(h.blocks())
	known := h.known()
	next := int64(0) // page that may come
	for len(b) > 0 {
		if len(b) < pageRecord {
			return m, corrupt("index: page record is cut short")
		}
		le := binary.LittleEndian
		number, runs := int64(le.Uint32(b)), int(le.Uint16(b[4:]))
		if number < next || number >= int64(len(m.pages)) || b[6] != 0 || b[7] != 0 {
			return m, corrupt("index: page %d of %d", number, len(m.pages))
		}
		next = number + 1
		p := &page{}
		length := pageBlocks
		if runs > 0 {
			length = runs * runRecord
		}
		b = b[pageRecord:]
		if len(b) < length || runs > maxRuns {
			return m, corrupt("index: page %d is cut short", number)
		}
		if runs == 0 {
			copy(p.states[:], b)
		} else if !parseRuns(b[:length], &p.states) {
			return m, corrupt("index: runs of page %d", number)
		}
		b = b[length:]
		left := h.blocks() - number<<pageShift // blocks that the disk has from here on
		for i, s := range p.states {
			if !known[s] || s != stateBase && int64(i) >= left {
				return m, corrupt("index: block %d has state %d", number<<pageShift+int64(i), s)
			}
		}
		if runs == 0 && countRuns(&p.states) <= maxRuns {
			return m, corrupt("index: page %d is not in its shortest form", number)
		}
		m.pages[number] = p
	}
	return m, nil
}

// parseRuns fills states, and reports whether the runs are in order and as long
// as they can be.
func parseRuns(b []byte, states *[pageBlocks]uint8) bool {
	le := binary.LittleEndian
	end, before := 0, uint8(stateBase)
	for ; len(b) > 0; b = b[runRecord:] {
		from, n, state := int(le.Uint16(b)), int(le.Uint16(b[2:]))+1, b[4]
		if from < end || from+n > pageBlocks || state == stateBase || b[5] != 0 || from == end && state == before {
			return false
		}
		for i := from; i < from+n; i++ {
			states[i] = state
		}
		end, before = from+n, state
	}
	return true
}

func countRuns(states *[pageBlocks]uint8) int {
	n, before := 0, uint8(stateBase)
	for _, s := range states {
		if s != before && s != stateBase {
			n++
		}
		before = s
	}
	return n
}
