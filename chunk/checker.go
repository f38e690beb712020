package chunk

import (
	"crypto/sha256"
	"fmt"
	"hash"
)

// A Checker is the door for an object that comes in pieces and in order, as
// from a network: it checks the header when it is complete, and then each frame
// when it is. It keeps no bytes but the header's. Its methods are not safe for
// concurrent use. NewChecker makes one.
type Checker struct {
	id      ID
	head    []byte // the header's bytes so far; nil once it is checked
	header  Header // good once head is nil
	sum     hash.Hash
	extract Extract // that it is of; 0: all
	frame   int     // that sum is of
	left    int     // its bytes to come
	size    int64   // of the object; 0 until the header is checked
	checked int64
	err     error
}

// NewChecker returns a Checker of what ought to be the object of id.
func NewChecker(id ID) *Checker {
	return &Checker{id: id, head: make([]byte, 0, firstHeader), sum: sha256.New()}
}

// Write checks the next bytes of the object. It keeps none of p. Its error is a
// *CorruptError, which every later call gives too; n is then len(p) or less and
// says nothing, Checked does.
func (c *Checker) Write(p []byte) (n int, err error) {
	for n < len(p) && c.err == nil {
		if c.head != nil {
			n += c.takeHeader(p[n:])
		} else {
			n += c.takeFrame(p[n:])
		}
	}
	return n, c.err
}

// Checked returns how many bytes of the object are what id promises: the header
// and whole frames.
func (c *Checker) Checked() int64 { return c.checked }

// Size returns the bytes of the object, or 0 until its header is checked.
func (c *Checker) Size() int64 { return c.size }

// Complete reports whether every byte of the object is checked.
func (c *Checker) Complete() bool { return c.size > 0 && c.checked == c.size }

func (c *Checker) corrupt(reason string) { c.err = &CorruptError{c.id, reason} }

// takeHeader takes what it can use of p for the header, and returns how much.
func (c *Checker) takeHeader(p []byte) int {
	need := prefixLen
	if len(c.head) >= prefixLen {
		need, _ = encodedLen(c.head) // it was tried below
	}
	n := min(need-len(c.head), len(p))
	c.head = append(c.head, p[:n]...)
	if len(c.head) < need {
		return n
	}
	if need == prefixLen { // at most once: a header has a frame
		if _, err := encodedLen(c.head); err != nil {
			c.corrupt(err.Error())
		}
		return n
	}
	if c.err = c.extract.ParseAs(&c.header, c.id, c.head); c.err != nil {
		return n
	}
	c.size, c.checked, c.head = c.extract.Size(&c.header), int64(len(c.head)), nil
	c.frame = -1
	c.next()
	return n
}

// next goes on to the next frame of the object.
func (c *Checker) next() {
	for c.frame++; c.frame < len(c.header.Frames); c.frame++ {
		if c.extract.Has(c.frame) {
			c.left = int(c.header.Frames[c.frame].Len)
			return
		}
	}
}

// takeFrame takes what it can use of p for a frame, and returns how much.
func (c *Checker) takeFrame(p []byte) int {
	if c.frame == len(c.header.Frames) {
		c.corrupt(fmt.Sprintf("more than %d bytes", c.size))
		return 0
	}
	n := min(c.left, len(p))
	c.sum.Write(p[:n]) // never fails
	if c.left -= n; c.left > 0 {
		return n
	}
	f := &c.header.Frames[c.frame]
	var sum [sha256.Size]byte
	if [sha256.Size]byte(c.sum.Sum(sum[:0])) != f.Sum {
		c.corrupt(fmt.Sprintf("frame %d has another SHA-256", c.frame))
		return n
	}
	c.checked += int64(f.Len)
	c.sum.Reset()
	c.next()
	return n
}
