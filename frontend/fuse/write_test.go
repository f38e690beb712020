package fuse

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/rivuletfs/rivulet/blockdev"
)

// A scratch disk is memory that can be written; err, if set, is what all calls return.
type scratch struct {
	b       []byte
	flushes int
	err     error
}

func (s *scratch) Size() int64 { return int64(len(s.b)) }

func (s *scratch) ReadAt(p []byte, off int64) (int, error) { return copy(p, s.b[off:]), s.err }

func (s *scratch) WriteAt(p []byte, off int64) (int, error) {
	if int(off)+len(p) > len(s.b) {
		panic("a write past the end reached the device")
	}
	return copy(s.b[off:], p), s.err
}

func (s *scratch) Flush() error { s.flushes++; return s.err }

func (s *scratch) Discard(off, length int64) error {
	clear(s.b[off : off+length])
	return s.err
}

func (s *scratch) WriteZeroes(off, length int64) error { return s.Discard(off, length) }

func scratchDisk() Disk {
	return Disk{Name: "scratch", ID: "id of scratch", Device: &scratch{b: content(8192)}}
}

func writeRequest(node, off uint64, data string) []byte {
	b := append(request(opWrite, node, uint64(0), off, len(data), 0, uint64(0), 0, 0), data...)
	order.PutUint32(b, uint32(len(b)))
	return b
}

func TestWrite(t *testing.T) {
	disk := scratchDisk()
	s := disk.Device.(*scratch)
	d := newDispatcher(t, disk)
	d.writable = true
	id := nodeID(disk.Name, disk.ID, s.Size())
	want := slices.Clone(s.b)

	e, out := ask(t, d, writeRequest(id, 8188, "tail"))
	if copy(want[8188:], "tail"); e != errNone || len(out) != writeOutSize || order.Uint32(out) != 4 {
		t.Errorf("write: error %d, answer %x", e, out)
	}
	for mode, off := range map[int]uint64{fallocPunchHole | fallocKeepSize: 512, fallocZeroRange: 4096} {
		if e, _ := ask(t, d, request(opFallocate, id, uint64(0), off, uint64(100), mode, 0)); e != errNone {
			t.Errorf("fallocate with mode %#x: error %d", mode, e)
		}
		clear(want[off : off+100])
	}
	if e, _ := ask(t, d, request(opFsync, id, uint64(0), 0, 0)); e != errNone || s.flushes != 1 {
		t.Errorf("sync: error %d, %d flushes", e, s.flushes)
	}
	if e, _ := ask(t, d, request(opOpen, id, 2, 0)); e != errNone {
		t.Errorf("open to write: error %d", e)
	}
	if e, out := ask(t, d, request(opGetattr, id, uint64(0), uint64(0))); e != errNone || order.Uint32(out[16+60:]) != modeFile|0o600 {
		t.Errorf("attributes: error %d, mode %o", e, order.Uint32(out[16+60:]))
	}
	cut := writeRequest(id, 0, "text")[:inHeaderSize+writeInSize+2]
	order.PutUint32(cut, uint32(len(cut)))
	long := writeRequest(id, 0, strings.Repeat("x", MaxWrite+1))
	for _, c := range []struct {
		name string
		req  []byte
		err  errno
	}{
		{"past the end", writeRequest(id, 8189, "tail"), errFBIG},
		{"at a negative offset", writeRequest(id, 1<<63, "x"), errFBIG},
		{"nothing", writeRequest(id, 8192, ""), errNone},
		{"to the root", writeRequest(rootNode, 0, "x"), errISDIR},
		{"to what is gone", writeRequest(12345, 0, "x"), errIO},
		{"less than it says", cut, errINVAL},
		{"too much", long, errINVAL},
		{"cut off", request(opWrite, id, uint64(0)), errINVAL},
		{"punch past the end", request(opFallocate, id, uint64(0), uint64(8000), uint64(512), 3, 0), errFBIG},
		{"punch without end", request(opFallocate, id, uint64(0), uint64(1), ^uint64(0), 3, 0), errFBIG},
		{"make the file longer", request(opFallocate, id, uint64(0), uint64(0), uint64(9000), 0, 0), errNOTSUP},
		{"collapse a range", request(opFallocate, id, uint64(0), uint64(0), uint64(512), 8, 0), errNOTSUP},
		{"fallocate cut off", request(opFallocate, id, uint64(0)), errINVAL},
		{"sync the root", request(opFsync, rootNode, uint64(0), 0, 0), errISDIR},
	} {
		if e, _ := ask(t, d, c.req); e != c.err {
			t.Errorf("%s: error %d, want %d", c.name, e, c.err)
		}
	}
	if !bytes.Equal(s.b, want) {
		t.Error("the disk has other bytes than were written")
	}
}

// TestWriteErrors tells what a device's errors become, and that one that cannot be
// written in this session is left alone.
func TestWriteErrors(t *testing.T) {
	for _, c := range []struct {
		err  error
		want errno
	}{
		{errors.New("medium"), errIO},
		{fmt.Errorf("quota: %w", blockdev.ErrNoSpace), errNOSPC},
	} {
		d := newDispatcher(t, Disk{"scratch", "s", &scratch{b: make([]byte, 512), err: c.err}})
		d.writable = true
		for _, req := range [][]byte{
			writeRequest(nodeID("scratch", "s", 512), 0, "x"),
			request(opFsync, nodeID("scratch", "s", 512), uint64(0), 0, 0),
			request(opFallocate, nodeID("scratch", "s", 512), uint64(0), uint64(0), uint64(512), 3, 0),
		} {
			if e, _ := ask(t, d, req); e != c.want {
				t.Errorf("%v: error %d, want %d", c.err, e, c.want)
			}
		}
	}
	left := newDispatcher(t, Disk{"scratch", "s", &scratch{b: make([]byte, 512), err: blockdev.ErrLeft}})
	left.writable = true
	req := writeRequest(nodeID("scratch", "s", 512), 0, "x")
	if n := left.handle(req, make([]byte, replySize(req))); n != 0 {
		t.Errorf("a reply of %d bytes to a write that is left to the next process", n)
	}
	disk := scratchDisk()
	d := newDispatcher(t, disk)
	if e, _ := ask(t, d, writeRequest(nodeID(disk.Name, disk.ID, 8192), 0, "x")); e != errPERM {
		t.Errorf("write in a session for reading: error %d", e)
	}
}
