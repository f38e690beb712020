package profile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/rivuletfs/rivulet/blockmap"
)

// The stored form is
//
//	"rvprofl" ‖ version ‖ image ‖ workload ‖ starts ‖ length ‖ number of entries ‖ entries
//
// where an entry is what differs from the one before, and the version is 2 if it is
// predicted, else 1; with headers, it is 4 or 3, and they follow. doc/format/profile.md has the bytes and vectors.
const (
	magicWord      = "rvprofl"
	magic          = magicWord + "1"
	predictedMagic = magicWord + "2"

	withHeaders          = magicWord + "3"
	predictedWithHeaders = magicWord + "4"

	unit = time.Microsecond // of times as they are stored

	headBytes     = 192 // bound of all before the entries
	maxEntryBytes = 21  // 5 chunk, 3 frame, 1 starts, 6 time, 6 waited
	minEntryBytes = 5
)

// Bounds of a profile. Parse checks each before it allocates.
const (
	MaxEntries       = 1 << 17        // frames: 8 GiB of frames of 64 KiB
	MaxStarts        = 64             // that are remembered; see Merge
	MaxTime          = 24 * time.Hour // of all times, which are whole microseconds
	MaxWorkloadBytes = 128            // of the workload's name

	// MaxBytes bounds the stored form.
	MaxBytes = headBytes + MaxEntries*maxEntryBytes + MaxHeaderBytes
)

var (
	// ErrFormat is returned (wrapped) for what is no profile.
	ErrFormat = errors.New("malformed profile")
	// ErrVersion is returned (wrapped) for a profile of another format version.
	ErrVersion = errors.New("unknown profile version")
)

func malformed(format string, args ...any) error {
	return fmt.Errorf("profile: %s: %w", fmt.Sprintf(format, args...), ErrFormat)
}

// CheckWorkload reports, by a nil error, whether name can name a workload: at most
// MaxWorkloadBytes of UTF-8 without control characters. The empty name is what
// the image starts by itself.
func CheckWorkload(name string) error {
	if len(name) > MaxWorkloadBytes || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return fmt.Errorf("workload %.40q: want at most %d bytes of text", name, MaxWorkloadBytes)
	}
	return nil
}

// check reports what keeps p from being stored.
func (p *Profile) check() error {
	if err := CheckWorkload(p.Workload); err != nil {
		return malformed("%v", err)
	}
	switch {
	case p.Starts < 1 || p.Starts > MaxStarts:
		return malformed("%d starts, want 1 to %d", p.Starts, MaxStarts)
	case p.Predicted && p.Starts != 1:
		return malformed("predicted, of %d starts", p.Starts)
	case whole(p.Length) != p.Length:
		return malformed("length %v", p.Length)
	case len(p.Entries) > MaxEntries:
		return malformed("%d entries, at most %d", len(p.Entries), MaxEntries)
	}
	seen := make(map[Frame]bool, len(p.Entries))
	for i := range p.Entries {
		e := &p.Entries[i]
		switch {
		case e.Chunk >= blockmap.MaxChunks:
			return malformed("entry %d: chunk %d", i, e.Chunk)
		case e.Starts < 1 || e.Starts > p.Starts:
			return malformed("entry %d: in %d of %d starts", i, e.Starts, p.Starts)
		case whole(e.At) != e.At || whole(e.Waited) != e.Waited:
			return malformed("entry %d: at %v, waited %v", i, e.At, e.Waited)
		case seen[e.Frame]:
			return malformed("entry %d: frame %d of chunk %d is there twice", i, e.Number, e.Chunk)
		}
		seen[e.Frame] = true
	}
	return p.checkHeaders()
}

// magic is what the stored form of p begins with.
func (p *Profile) magic() string {
	switch headers := len(p.Headers) > 0; {
	case headers && p.Predicted:
		return predictedWithHeaders
	case headers:
		return withHeaders
	case p.Predicted:
		return predictedMagic
	}
	return magic
}

// AppendBinary implements encoding.BinaryAppender: it appends the stored form of
// p. The error is ErrFormat if p breaks a rule of the format: more starts than
// MaxStarts, a time that is no whole microsecond, a frame twice.
func (p *Profile) AppendBinary(b []byte) ([]byte, error) {
	if err := p.check(); err != nil {
		return b, err
	}
	before := b
	b = append(b, p.magic()...)
	b = append(b, p.Image[:]...)
	b = append(b, byte(len(p.Workload)))
	b = append(b, p.Workload...)
	b = binary.AppendUvarint(b, uint64(p.Starts))
	b = binary.AppendUvarint(b, uint64(p.Length/unit))
	b = binary.AppendUvarint(b, uint64(len(p.Entries)))
	var last Entry
	for _, e := range p.Entries {
		b = binary.AppendVarint(b, int64(e.Chunk)-int64(last.Chunk))
		b = binary.AppendVarint(b, int64(e.Number)-expected(&last, e.Chunk))
		b = binary.AppendUvarint(b, uint64(p.Starts-e.Starts))
		b = binary.AppendVarint(b, int64((e.At-last.At)/unit))
		b = binary.AppendUvarint(b, uint64(e.Waited/unit))
		last = e
	}
	if len(p.Headers) == 0 {
		return b, nil
	}
	b, err := p.appendHeaders(b)
	if err != nil {
		return before, err
	}
	return b, nil
}

// expected is the frame number of an entry of that chunk after last: starts read
// on in a chunk, or begin with another's first frame. Before the first entry lies
// an entry of zeros.
func expected(last *Entry, chunk uint32) int64 {
	if chunk == last.Chunk && last.Starts != 0 {
		return int64(last.Number) + 1
	}
	return 0
}

// Parse reads a profile's stored form. What it accepts, AppendBinary gives back
// byte for byte; anything else is ErrFormat or ErrVersion. It keeps nothing of b.
func Parse(b []byte) (*Profile, error) {
	if len(b) > MaxBytes {
		return nil, malformed("%d bytes, at most %d", len(b), MaxBytes)
	}
	r := reader{b}
	head, ok := r.bytes(len(magic))
	if !ok || string(head[:len(magicWord)]) != magicWord {
		return nil, malformed("it does not begin as one")
	}
	p, headers := &Profile{}, false
	switch string(head) {
	case magic:
	case predictedMagic:
		p.Predicted = true
	case withHeaders:
		headers = true
	case predictedWithHeaders:
		p.Predicted, headers = true, true
	default:
		return nil, fmt.Errorf("profile: version %.1q, want 1 to 4: %w", head[len(magicWord):], ErrVersion)
	}
	n, err := r.head(p)
	if err != nil {
		return nil, err
	}
	if n > uint64(len(r.rest)/minEntryBytes) || n > MaxEntries {
		return nil, malformed("%d entries in %d bytes, at most %d", n, len(r.rest), MaxEntries)
	}
	if n > 0 {
		p.Entries = make([]Entry, n)
	}
	var last Entry
	for i := range p.Entries {
		if err := r.entry(&p.Entries[i], &last, p.Starts); err != nil {
			return nil, fmt.Errorf("entry %d: %w", i, err)
		}
		last = p.Entries[i]
	}
	if headers {
		if p.Headers, err = r.headers(); err != nil {
			return nil, err
		}
	}
	if len(r.rest) > 0 {
		return nil, malformed("%d bytes too many", len(r.rest))
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	return p, nil
}

// reader reads a stored form from its beginning.
type reader struct{ rest []byte }

func (r *reader) bytes(n int) ([]byte, bool) {
	if n > len(r.rest) {
		return nil, false
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b, true
}

// uvarint reads a number in its shortest form.
func (r *reader) uvarint() (uint64, bool) {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 || n > 1 && r.rest[n-1] == 0 {
		return 0, false
	}
	r.rest = r.rest[n:]
	return v, true
}

// within reads a number of at most max.
func (r *reader) within(max uint64) (uint64, bool) {
	v, ok := r.uvarint()
	return v, ok && v <= max
}

// step reads a difference and returns what is that much after from, if it is in 0
// to max.
func (r *reader) step(from, max int64) (int64, bool) {
	u, ok := r.uvarint()
	d := int64(u >> 1)
	if u&1 != 0 {
		d = ^d
	}
	// from is at most max, which is small: the sum wraps for no d that would do.
	return from + d, ok && d <= max-from && d >= -from
}

const maxUnits = uint64(MaxTime / unit)

func (r *reader) head(p *Profile) (entries uint64, err error) {
	image, ok := r.bytes(len(p.Image))
	copy(p.Image[:], image)
	size, ok2 := r.bytes(1)
	if !ok || !ok2 {
		return 0, malformed("cut short")
	}
	name, ok := r.bytes(int(size[0]))
	p.Workload = string(name)
	starts, ok2 := r.within(MaxStarts)
	length, ok3 := r.within(maxUnits)
	p.Starts, p.Length = uint32(starts), time.Duration(length)*unit
	entries, ok4 := r.uvarint()
	if !ok || !ok2 || !ok3 || !ok4 {
		return 0, malformed("workload, starts, length or number of entries")
	}
	return entries, nil
}

func (r *reader) entry(e, last *Entry, starts uint32) error {
	index, ok := r.step(int64(last.Chunk), blockmap.MaxChunks-1)
	e.Chunk = uint32(index)
	number, ok2 := r.step(expected(last, e.Chunk), 1<<16-1)
	e.Number = uint16(number)
	without, ok3 := r.within(uint64(starts))
	e.Starts = starts - uint32(without)
	at, ok4 := r.step(int64(last.At/unit), int64(maxUnits))
	e.At = time.Duration(at) * unit
	waited, ok5 := r.within(maxUnits)
	e.Waited = time.Duration(waited) * unit
	if !ok || !ok2 || !ok3 || !ok4 || !ok5 {
		return malformed("a number is cut short, too long or out of bounds")
	}
	return nil
}

// Fits reports, by a nil error, whether p is of block map m, names frames that m has, and
// has its chunks' headers; else the error is ErrMismatch.
func (p *Profile) Fits(m *blockmap.Map) error {
	if p.Image != m.Digest() {
		return fmt.Errorf("profile of %v, and block map %v: %w", p.Image, m.Digest(), ErrMismatch)
	}
	log2 := m.Info().FrameLog2
	for i := range p.Entries {
		e := &p.Entries[i]
		if int64(e.Chunk) >= int64(m.Len()) || int64(e.Number)<<log2 >= int64(m.Chunk(int(e.Chunk)).Size) {
			return fmt.Errorf("profile of %v: entry %d: frame %d of chunk %d is not there: %w", p.Image, i, e.Number, e.Chunk, ErrMismatch)
		}
	}
	for i := range p.Headers {
		h := &p.Headers[i]
		if int64(h.Chunk) >= int64(m.Len()) || h.ID() != m.Chunk(int(h.Chunk)).ID {
			return fmt.Errorf("profile of %v: header %d is not that of chunk %d: %w", p.Image, i, h.Chunk, ErrMismatch)
		}
	}
	return nil
}
