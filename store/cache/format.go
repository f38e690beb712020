package cache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"sync"

	"github.com/rivuletfs/rivulet/chunk"
)

// The file of a chunk is
//
//	object ‖ CRC-32C of each of its pages ‖ trailer
//
// doc/format/cache.md has the bytes.
const (
	// PageSize is what one page checksum covers, in bytes.
	PageSize = 4096

	blockSize    = 4096 // what a file takes is a multiple of it
	sumLen       = 4
	trailerLen   = 16
	trailerMagic = "rvp1"
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	errTooLong = errors.New("file is too long")
)

func pages(size int64) int64 { return (size + PageSize - 1) / PageSize }

// fileSize returns the bytes of the file for an object of size bytes.
func fileSize(size int64) int64 { return size + pages(size)*sumLen + trailerLen }

// Cost returns what an object of size bytes counts against the cap: its file,
// page checksums included, in whole blocks.
func Cost(size int64) int64 { return (fileSize(size) + blockSize - 1) / blockSize * blockSize }

// appendTrailer appends the trailer to table, the page checksums of an object
// of size bytes.
func appendTrailer(table []byte, size int64) []byte {
	b := append(table, trailerMagic...)
	b = binary.LittleEndian.AppendUint64(b, uint64(size))
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// checkTail checks table and trailer of an object of size bytes.
func checkTail(b []byte, size int64) error {
	n := len(b) - trailerLen
	switch {
	case string(b[n:n+4]) != trailerMagic:
		return errors.New("no trailer")
	case binary.LittleEndian.Uint64(b[n+4:]) != uint64(size):
		return errors.New("trailer tells another size")
	case binary.LittleEndian.Uint32(b[n+12:]) != crc32.Checksum(b[:n+12], castagnoli):
		return errors.New("page checksums or trailer are damaged")
	}
	return nil
}

// A pageSummer makes the page checksums of bytes that come in order.
type pageSummer struct {
	table []byte
	sum   uint32 // of the page that is not full
	have  int    // its bytes
}

func (s *pageSummer) write(p []byte) {
	for len(p) > 0 {
		n := min(PageSize-s.have, len(p))
		s.sum = crc32.Update(s.sum, castagnoli, p[:n])
		if s.have += n; s.have == PageSize {
			s.flush()
		}
		p = p[n:]
	}
}

// flush ends the page that is not full.
func (s *pageSummer) flush() {
	if s.have > 0 {
		s.table = binary.LittleEndian.AppendUint32(s.table, s.sum)
		s.sum, s.have = 0, 0
	}
}

// verifyStep is how much of a file is read at once, a multiple of PageSize that
// the longest header fits in.
const verifyStep = 64 << 10

// A bench is the memory that a file is checked with.
type bench struct {
	tail   []byte
	step   [verifyStep]byte
	header chunk.Header
}

var benches = sync.Pool{New: func() any { return new(bench) }}

// verify checks the whole file of o against its page checksums, and its header
// against the chunk's name; if frames is set, each frame against the header, too. A *chunk.CorruptError says that the file is damaged; any
// other error, that it could not be read.
func (s *files) verify(f *os.File, o object, frames bool) error {
	id, size := o.id, o.size
	corrupt := func(reason string) error { return &chunk.CorruptError{ID: id, Reason: reason} }
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() != fileSize(size) {
		return corrupt(fmt.Sprintf("its file has %d bytes, want %d", info.Size(), fileSize(size)))
	}
	k := benches.Get().(*bench)
	defer benches.Put(k)
	if err := s.readTail(f, k, size); err != nil {
		return err
	}
	if err := checkTail(k.tail, size); err != nil {
		return corrupt(err.Error())
	}
	var checker *chunk.Checker
	if frames {
		checker = o.extract.NewChecker(id)
	}
	for off := int64(0); off < size; off += verifyStep {
		b := k.step[:min(verifyStep, size-off)]
		if err := s.readFull(f, b, off); err != nil {
			return err
		}
		if i := badPage(b, k.tail[off/PageSize*sumLen:]); i >= 0 {
			return corrupt(fmt.Sprintf("page %d has another checksum", off/PageSize+int64(i)))
		}
		if off == 0 {
			if err := o.extract.ParseAs(&k.header, id, b); err != nil {
				return err
			}
			if n := o.extract.Size(&k.header); n != size {
				return corrupt(fmt.Sprintf("%d bytes, want %d", size, n))
			}
		}
		if checker != nil {
			if _, err := checker.Write(b); err != nil {
				return err
			}
		}
	}
	return nil
}

// appendObject appends o, which is in f, to b, checked against the page checksums. Its
// errors are those of verify.
func (s *files) appendObject(b []byte, f *os.File, o object) ([]byte, error) {
	id, size, at := o.id, o.size, len(b)
	b = slices.Grow(b, int(fileSize(size)))[:at+int(fileSize(size))]
	if err := s.readFull(f, b[at:], 0); err != nil {
		return nil, err
	}
	object, tail := b[at:at+int(size)], b[at+int(size):]
	if err := checkTail(tail, size); err != nil {
		return nil, &chunk.CorruptError{ID: id, Reason: err.Error()}
	}
	if i := badPage(object, tail); i >= 0 {
		return nil, &chunk.CorruptError{ID: id, Reason: fmt.Sprintf("page %d has another checksum", i)}
	}
	return b[:at+int(size)], nil
}

// readTail reads page checksums and trailer into k.tail.
func (s *files) readTail(f *os.File, k *bench, size int64) error {
	n := int(fileSize(size) - size)
	if cap(k.tail) < n {
		k.tail = make([]byte, n)
	}
	k.tail = k.tail[:n]
	return s.readFull(f, k.tail, size)
}

// readFull fills b. A file that ends before is io.ErrUnexpectedEOF.
func (s *files) readFull(f *os.File, b []byte, off int64) error {
	n, err := s.readAt(f, b, off)
	if n == len(b) {
		return nil
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// badPage returns the first page of b whose checksum is not that in table, or
// -1.
func badPage(b, table []byte) int {
	for i := 0; len(b) > 0; i++ {
		n := min(PageSize, len(b))
		if crc32.Checksum(b[:n], castagnoli) != binary.LittleEndian.Uint32(table[i*sumLen:]) {
			return i
		}
		b = b[n:]
	}
	return -1
}
