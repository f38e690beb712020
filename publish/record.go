package publish

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/flatten"
	"github.com/rivuletfs/rivulet/layout"
	"github.com/rivuletfs/rivulet/seal"
)

// A segment record is a layer as publishing remembers it: its entries without
// their data, and the chunks that hold the data. It is an object of its own,
//
//	"rvseg" ‖ version byte ‖ zstd(body)
//
// whose body is a sequence of varints (encoding/binary) and of strings and byte
// arrays with their length before them. It is a cache entry: a reader that does
// not understand one reads the layer instead.
const (
	recordMagic    = "rvseg\x01"
	maxRecordBytes = 1 << 30 // of the body
	maxEntryXattrs = 1 << 12
)

// A record is the content of a segment record.
type record struct {
	Layer  flatten.Layer // Data is nil
	Chunks []stored      // of the segment, in order
}

// stored is one sealed chunk of a segment; the zero value is a hole.
type stored struct {
	ID     chunk.ID
	Key    seal.Key
	Stored uint32            // bytes of the stored form
	Size   uint32            // bytes of plaintext
	Sum    [sha256.Size]byte // of the plaintext
}

func (s *stored) hole() bool { return s.Size == 0 }

var errRecord = errors.New("malformed segment record")

type recordWriter struct{ b []byte }

func (w *recordWriter) uint(v uint64) { w.b = binary.AppendUvarint(w.b, v) }
func (w *recordWriter) int(v int64)   { w.b = binary.AppendVarint(w.b, v) }
func (w *recordWriter) string(s string) {
	w.uint(uint64(len(s)))
	w.b = append(w.b, s...)
}

// body is the content of a segment record before compression.
func (r *record) body() ([]byte, error) {
	w := &recordWriter{}
	w.string(r.Layer.DiffID.String())
	w.uint(uint64(len(r.Layer.Entries)))
	last := ""
	for i := range r.Layer.Entries {
		e := &r.Layer.Entries[i]
		w.entry(e, last)
		last = e.Path
	}
	for _, list := range [][]string{r.Layer.Whiteouts, r.Layer.Opaques} {
		w.uint(uint64(len(list)))
		for _, s := range list {
			w.string(s)
		}
	}
	w.uint(uint64(len(r.Chunks)))
	for i := range r.Chunks {
		c := &r.Chunks[i]
		w.uint(uint64(c.Size))
		if !c.hole() {
			w.uint(uint64(c.Stored))
			w.b = append(append(append(w.b, c.ID[:]...), c.Key[:]...), c.Sum[:]...)
		}
	}
	if len(w.b) > maxRecordBytes {
		return nil, fmt.Errorf("segment record of %d bytes: too large", len(w.b))
	}
	return w.b, nil
}

func (r *record) encode() ([]byte, error) {
	body, err := r.body()
	if err != nil {
		return nil, err
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer func() { _ = enc.Close() }()
	return enc.EncodeAll(body, []byte(recordMagic)), nil
}

// entry writes e; of its path, only what differs from the path before it.
func (w *recordWriter) entry(e *flatten.Entry, last string) {
	same := 0
	for same < len(last) && same < len(e.Path) && last[same] == e.Path[same] {
		same++
	}
	w.uint(uint64(same))
	w.string(e.Path[same:])
	kind := uint64(e.Kind) << 1
	if e.Implied {
		kind |= 1
	}
	w.uint(kind)
	w.uint(uint64(e.Mode))
	w.uint(uint64(e.UID))
	w.uint(uint64(e.GID))
	w.int(e.MTime.Sec)
	w.uint(uint64(e.MTime.Nsec))
	w.uint(uint64(e.Major))
	w.uint(uint64(e.Minor))
	w.string(e.Target)
	w.uint(uint64(e.Size))
	w.uint(uint64(len(e.Xattrs)))
	for _, x := range e.Xattrs {
		w.string(x.Name)
		w.string(x.Value)
	}
}

// A recordReader reads a body; after the first fault every read gives zero.
type recordReader struct {
	b   []byte
	bad bool
}

func (r *recordReader) uint(limit uint64) uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > limit {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *recordReader) int() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *recordReader) bytes(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return nil
	}
	p := r.b[:n]
	r.b = r.b[n:]
	return p
}

func (r *recordReader) string() string { return string(r.bytes(r.uint(math.MaxInt32))) }

// count reads the length of a list of at most most items that take at least
// least bytes each.
func (r *recordReader) count(least, most int) int {
	return int(r.uint(uint64(min(len(r.b)/least, most))))
}

// The least bytes that an entry, a string and a chunk take.
const (
	minEntryBytes  = 12
	minStringBytes = 1
	minChunkBytes  = 1
)

func decodeRecord(object []byte) (*record, error) {
	body, ok := bytes.CutPrefix(object, []byte(recordMagic))
	if !ok {
		return nil, fmt.Errorf("%w: unknown version", errRecord)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxRecordBytes))
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	b, err := dec.DecodeAll(body, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errRecord, err)
	}
	return decodeBody(b)
}

func decodeBody(b []byte) (*record, error) {
	r := &recordReader{b: b}
	rec := &record{}
	var err error
	if rec.Layer.DiffID, err = v1.NewHash(r.string()); err != nil {
		return nil, fmt.Errorf("%w: %w", errRecord, err)
	}
	last := ""
	n := r.count(minEntryBytes, maxRecordItems)
	rec.Layer.Entries = make([]flatten.Entry, 0, n)
	for ; n > 0 && !r.bad; n-- {
		var e flatten.Entry
		r.entry(&e, last)
		last = e.Path
		rec.Layer.Entries = append(rec.Layer.Entries, e)
	}
	rec.Layer.Whiteouts = r.strings()
	rec.Layer.Opaques = r.strings()
	rec.Chunks = make([]stored, r.count(minChunkBytes, maxRecordChunks))
	for i := range rec.Chunks {
		r.chunk(&rec.Chunks[i])
	}
	if r.bad || len(r.b) != 0 {
		return nil, errRecord
	}
	return rec, checkLayer(&rec.Layer)
}

func (r *recordReader) strings() []string {
	list := make([]string, r.count(minStringBytes, maxRecordItems))
	for i := range list {
		list[i] = r.string()
	}
	return list
}

func (r *recordReader) entry(e *flatten.Entry, last string) {
	same := r.uint(uint64(len(last)))
	e.Path = last[:same] + r.string()
	kind := r.uint(uint64(flatten.Link)<<1 | 1)
	e.Kind, e.Implied = flatten.Kind(kind>>1), kind&1 != 0
	e.Mode = uint16(r.uint(0o7777))
	e.UID = uint32(r.uint(math.MaxUint32))
	e.GID = uint32(r.uint(math.MaxUint32))
	e.MTime.Sec = r.int()
	e.MTime.Nsec = uint32(r.uint(999_999_999))
	e.Major = uint32(r.uint(math.MaxUint32))
	e.Minor = uint32(r.uint(math.MaxUint32))
	e.Target = r.string()
	e.Size = int64(r.uint(math.MaxInt64))
	for range r.count(2*minStringBytes, maxEntryXattrs) {
		e.Xattrs = append(e.Xattrs, flatten.Xattr{Name: r.string(), Value: r.string()})
	}
	if e.Kind == 0 || e.Path == "" {
		r.bad = true
	}
}

func (r *recordReader) chunk(c *stored) {
	if c.Size = uint32(r.uint(uint64(layout.Default.Chunk))); c.hole() {
		return
	}
	c.Stored = uint32(r.uint(2 * chunk.MaxSize))
	r.bad = r.bad || c.Stored == 0
	copy(c.ID[:], r.bytes(uint64(len(c.ID))))
	copy(c.Key[:], r.bytes(uint64(len(c.Key))))
	copy(c.Sum[:], r.bytes(uint64(len(c.Sum))))
}
