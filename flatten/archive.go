package flatten

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// An ArchiveWriter writes canonical archives: the same entries give the same
// bytes, whatever wrote them first. A canonical archive is a POSIX tar archive
// (IEEE Std 1003.1, pax) of this form:
//
//   - Entries come in walk order (ComparePaths). A directory that is only implied
//     has none. Paths have no leading "/" or "./"; directories end in "/", the root
//     is "./".
//   - Of an inode with several names the first in walk order has the data
//     and attributes. The others are of type link, name that path, and have mode,
//     owner, size and time 0. So have links to files of lower layers.
//   - A whiteout or opaque mark is an empty file of mode, owner and time 0.
//   - Symbolic links have mode 0777. The prefix, the owners' names and the
//     device numbers of what is no device are empty or 0.
//   - A number is in octal, padded with zeros to the field's size less one, then
//     NUL. The checksum is six digits, NUL, space.
//   - What does not fit its field, or has bytes outside of ASCII, stands in a pax
//     header before the entry (type x, name "pax", mode, owner and time 0), and the
//     field is empty or 0: path, linkpath (more than 100 bytes, or not ASCII), size,
//     uid, gid, mtime (negative, too large, or with a part of a second,
//     whose zeros at the end are cut). Extended attributes are SCHILY.xattr
//     records. Records are sorted by their keys, each stands once.
//   - Two blocks of zeros end the archive; nothing pads it further.
//
// An ArchiveWriter is used by one goroutine. Its first error stays.
type ArchiveWriter struct {
	w   io.Writer
	err error
}

// NewArchiveWriter returns a writer of one archive. Its writes are small: w
// should be buffered.
func NewArchiveWriter(w io.Writer) *ArchiveWriter { return &ArchiveWriter{w: w} }

const (
	blockSize     = 512
	maxPAXRecords = 1 << 20 // what archive/tar reads
)

var zeroBlock [blockSize]byte

// Add writes one entry. Of a File, exactly e.Size bytes are read from data.
// The caller keeps to the order of entries, and names whiteouts as an archive
// does (WhiteoutName).
func (a *ArchiveWriter) Add(e *Entry, data io.Reader) error {
	if a.err == nil {
		if a.err = a.add(e, data); a.err != nil {
			a.err = fmt.Errorf("write archive: %w", &EntryError{Path: e.Path, Err: a.err})
		}
	}
	return a.err
}

// Close writes the archive's end. It does not close the underlying writer.
func (a *ArchiveWriter) Close() error {
	if a.err != nil {
		return a.err
	}
	if _, a.err = a.w.Write(make([]byte, 2*blockSize)); a.err != nil {
		return a.err
	}
	a.err = errors.New("write archive: closed")
	return nil
}

func (a *ArchiveWriter) add(e *Entry, data io.Reader) error {
	h := tarHeader{typeflag: '0'}
	switch e.Kind {
	case File:
	case Link:
		h.typeflag = '1'
	case Symlink:
		h.typeflag = '2'
	case Char:
		h.typeflag = '3'
	case Block:
		h.typeflag = '4'
	case Dir:
		h.typeflag = '5'
	case FIFO:
		h.typeflag = '6'
	default:
		return fmt.Errorf("kind %d", e.Kind)
	}
	path := e.Path
	if e.Kind == Dir {
		path += "/"
	}
	h.text(0, 100, "path", path)
	h.text(157, 100, "linkpath", e.Target)
	if e.Kind != Link {
		h.attributes(e)
	}
	h.number(124, 12, "size", h.size)
	if err := a.header(&h); err != nil {
		return err
	}
	if h.size == 0 {
		return nil
	}
	if n, err := io.CopyN(a.w, data, h.size); err != nil {
		if err == io.EOF {
			return fmt.Errorf("data end after %d bytes of %d", n, h.size)
		}
		return err
	}
	return a.pad(h.size)
}

func (a *ArchiveWriter) pad(size int64) error {
	if over := size % blockSize; over != 0 {
		_, err := a.w.Write(zeroBlock[over:])
		return err
	}
	return nil
}

// header writes the pax header, if one is needed, and the entry's own.
func (a *ArchiveWriter) header(h *tarHeader) error {
	if len(h.records) > 0 {
		slices.SortFunc(h.records, func(x, y paxRecord) int { return strings.Compare(x.key, y.key) })
		var body []byte
		for _, r := range h.records {
			body = r.appendTo(body)
		}
		if len(body) > maxPAXRecords {
			return fmt.Errorf("names and attributes of %d bytes: at most %d are supported", len(body), maxPAXRecords)
		}
		pax := tarHeader{typeflag: 'x'}
		pax.text(0, 100, "path", "pax")
		pax.number(124, 12, "size", int64(len(body)))
		if _, err := a.w.Write(pax.seal()); err != nil {
			return err
		}
		if _, err := a.w.Write(body); err != nil {
			return err
		}
		if err := a.pad(int64(len(body))); err != nil {
			return err
		}
	}
	_, err := a.w.Write(h.seal())
	return err
}

// A tarHeader is a header block while it is filled in.
type tarHeader struct {
	block    [blockSize]byte
	typeflag byte
	size     int64
	records  []paxRecord // what does not fit the block
}

func (h *tarHeader) attributes(e *Entry) {
	h.number(100, 8, "mode", int64(e.Mode))
	h.number(108, 8, "uid", int64(e.UID))
	h.number(116, 8, "gid", int64(e.GID))
	if e.MTime.Nsec == 0 {
		h.number(136, 12, "mtime", e.MTime.Sec)
	} else {
		h.record("mtime", decimal(e.MTime))
	}
	if e.Kind == Char || e.Kind == Block {
		h.number(329, 8, "devmajor", int64(e.Major))
		h.number(337, 8, "devminor", int64(e.Minor))
	}
	if e.Kind == File {
		h.size = e.Size
	}
	for _, x := range e.Xattrs {
		h.record(paxXattr+x.Name, x.Value)
	}
}

func (h *tarHeader) record(key, value string) {
	h.records = append(h.records, paxRecord{key, value})
}

func (h *tarHeader) text(at, size int, key, s string) {
	if len(s) > size || strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 }) >= 0 {
		h.record(key, s)
		return
	}
	copy(h.block[at:at+size], s)
}

func (h *tarHeader) number(at, size int, key string, n int64) {
	if n < 0 || n>>(3*(size-1)) != 0 {
		h.record(key, strconv.FormatInt(n, 10))
		return
	}
	copy(h.block[at:], fmt.Sprintf("%0*o", size-1, n))
}

// seal completes the block: fields that were left empty, and the checksum.
func (h *tarHeader) seal() []byte {
	b := h.block[:]
	for _, f := range [][2]int{{100, 8}, {108, 8}, {116, 8}, {124, 12}, {136, 12}, {329, 8}, {337, 8}} {
		if b[f[0]] == 0 {
			copy(b[f[0]:], "00000000000"[:f[1]-1])
		}
	}
	b[156] = h.typeflag
	copy(b[257:], "ustar\x0000")
	copy(b[148:], "        ")
	sum := int64(0)
	for _, c := range b {
		sum += int64(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

type paxRecord struct{ key, value string }

// appendTo appends "LENGTH KEY=VALUE\n", where LENGTH counts all of it.
func (r paxRecord) appendTo(b []byte) []byte {
	rest := len(r.key) + len(r.value) + 3
	n := rest + len(strconv.Itoa(rest))
	n = rest + len(strconv.Itoa(n))
	return fmt.Appendf(b, "%d %s=%s\n", n, r.key, r.value)
}

// decimal writes a time as pax does, where a fraction counts away from zero.
func decimal(t Time) string {
	sec, nsec, sign := t.Sec, int64(t.Nsec), ""
	if sec < 0 && nsec > 0 {
		sign, sec, nsec = "-", -(sec + 1), 1_000_000_000-nsec
	}
	return strings.TrimRight(fmt.Sprintf("%s%d.%09d", sign, sec, nsec), "0")
}

// WhiteoutName returns the name of the archive entry that hides path.
func WhiteoutName(path string) string {
	dir, name := splitPath(path)
	if dir == "." {
		return whiteoutPrefix + name
	}
	return dir + "/" + whiteoutPrefix + name
}

// OpaqueName returns the name of the archive entry that hides what lower layers
// have in dir.
func OpaqueName(dir string) string {
	if dir == "." {
		return opaqueName
	}
	return dir + "/" + opaqueName
}

// WriteArchive writes a layer as a canonical archive. Reading that gives the
// layer back, but for directories that only a path through a symbolic link
// implied and for the choice among the names of a hard link.
func WriteArchive(w io.Writer, l *Layer) error {
	extra := make([]Entry, 0, len(l.Whiteouts)+len(l.Opaques))
	for _, path := range l.Whiteouts {
		extra = append(extra, Entry{Path: WhiteoutName(path), Attr: Attr{Kind: File}})
	}
	for _, path := range l.Opaques {
		extra = append(extra, Entry{Path: OpaqueName(path), Attr: Attr{Kind: File}})
	}
	slices.SortFunc(extra, func(x, y Entry) int { return ComparePaths(x.Path, y.Path) })
	heirs := firstNames(l)
	a := NewArchiveWriter(w)
	for i := range l.Entries {
		for len(extra) > 0 && ComparePaths(extra[0].Path, l.Entries[i].Path) < 0 {
			if err := a.Add(&extra[0], nil); err != nil {
				return err
			}
			extra = extra[1:]
		}
		if l.Entries[i].Implied {
			continue
		}
		e := heirs.named(l, i)
		if err := a.Add(&e, io.NewSectionReader(l.Data, e.Data, e.Size)); err != nil {
			return err
		}
	}
	for i := range extra {
		if err := a.Add(&extra[i], nil); err != nil {
			return err
		}
	}
	return a.Close()
}

// heirs maps the entry that holds an inode to the first of its names in walk
// order, where that is another.
type heirs map[int]int

func firstNames(l *Layer) heirs {
	first := make(heirs)
	for i := range l.Entries {
		if l.Entries[i].Kind != Link {
			continue
		}
		if at, ok := l.find(l.Entries[i].Target); ok && i < at {
			if _, taken := first[at]; !taken {
				first[at] = i
			}
		}
	}
	return first
}

// named returns entry i as the archive has it.
func (h heirs) named(l *Layer, i int) Entry {
	e := l.Entries[i]
	holder := i
	if e.Kind == Link {
		at, ok := l.find(e.Target)
		if !ok {
			return e
		}
		holder = at
	}
	first, moved := h[holder]
	switch {
	case moved && first == i:
		out := l.Entries[holder]
		out.Path = e.Path
		return out
	case moved:
		return Entry{Path: e.Path, Attr: Attr{Kind: Link, Target: l.Entries[first].Path}}
	}
	return e
}

// find returns the entry that stands at path.
func (l *Layer) find(path string) (int, bool) {
	return slices.BinarySearchFunc(l.Entries, path, func(e Entry, path string) int {
		return ComparePaths(e.Path, path)
	})
}
