package fuse

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/rivuletfs/rivulet/blockdev"
)

// A sized reader is a device.
type memory struct{ *bytes.Reader }

func (m memory) Size() int64 { return m.Reader.Size() }

// A broken device fails in the way named.
type broken struct {
	n   int // bytes returned
	err error
}

func (broken) Size() int64                             { return 4096 }
func (b broken) ReadAt(p []byte, _ int64) (int, error) { return min(b.n, len(p)), b.err }

func content(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

func newDispatcher(t testing.TB, disks ...Disk) *dispatcher {
	t.Helper()
	d := &dispatcher{tree: newTree(), uid: 7, gid: 8, background: 64, ready: make(chan struct{})}
	for _, disk := range disks {
		if err := d.tree.add(disk); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func memoryDisk(name string, n int) Disk {
	return Disk{Name: name, ID: "id of " + name, Device: memory{bytes.NewReader(content(n))}}
}

// request builds a request as the kernel would.
func request(opcode uint32, node uint64, body ...any) []byte {
	b := make([]byte, inHeaderSize)
	for _, v := range body {
		switch v := v.(type) {
		case string:
			b = append(append(b, v...), 0)
		case int:
			b = order.AppendUint32(b, uint32(v))
		case uint64:
			b = order.AppendUint64(b, v)
		}
	}
	order.PutUint32(b, uint32(len(b)))
	order.PutUint32(b[4:], opcode)
	order.PutUint64(b[8:], 99)
	order.PutUint64(b[16:], node)
	return b
}

func readRequest(opcode uint32, node, off uint64, size int) []byte {
	return request(opcode, node, uint64(0), off, size, 0, uint64(0), 0, 0)
}

// ask returns the error and the body of the answer.
func ask(t testing.TB, d *dispatcher, req []byte) (errno, []byte) {
	t.Helper()
	reply := bytes.Repeat([]byte{0xee}, replySize(req)) // as from another request
	n := d.handle(req, reply)
	if n == 0 {
		return errNone, nil
	}
	if n < outHeaderSize || n > len(reply) || int(order.Uint32(reply)) != n {
		t.Fatalf("reply of %d bytes in a buffer of %d tells %d", n, len(reply), order.Uint32(reply))
	}
	if order.Uint64(reply[8:]) != order.Uint64(req[8:]) {
		t.Fatal("reply to another request")
	}
	e := errno(-int32(order.Uint32(reply[4:])))
	if e < 0 || e >= 512 || (e != 0 && n != outHeaderSize) {
		t.Fatalf("reply with error %d and %d bytes: the kernel refuses it", e, n)
	}
	return e, reply[outHeaderSize:n]
}

func TestInit(t *testing.T) {
	for _, c := range []struct {
		name         string
		req          []byte
		err          errno
		major, minor uint32 // answered
		negotiated   uint32
		flags        uint64
	}{
		{"Linux 6.18", request(opInit, 0, 7, 45, 131072, 0x7fffffff, -1, uint64(0)), 0, 7, protoMinor, protoMinor, wantedFlags},
		{"without the second word", request(opInit, 0, 7, 31, 131072, 0x3fffffff), 0, 7, protoMinor, 31, wantedFlags & 0x3fffffff},
		{"second word not announced", request(opInit, 0, 7, 31, 131072, 0, -1), 0, 7, protoMinor, 31, 0},
		{"newer major", request(opInit, 0, 8, 0, 131072, 0), 0, 7, protoMinor, 0, 0},
		{"older major", request(opInit, 0, 6, 90, 131072, 0), errPROTO, 0, 0, 0, 0},
		{"older minor", request(opInit, 0, 7, 22, 131072, 0), errPROTO, 0, 0, 0, 0},
		{"short", request(opInit, 0, 7, 31, 0), errINVAL, 0, 0, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDispatcher(t)
			e, out := ask(t, d, c.req)
			if e != c.err {
				t.Fatalf("error %d, want %d", e, c.err)
			}
			if e == 0 && (len(out) != initOutSize || order.Uint32(out) != c.major || order.Uint32(out[4:]) != c.minor) {
				t.Errorf("answered %d bytes, version %d.%d", len(out), order.Uint32(out), order.Uint32(out[4:]))
			}
			minor, flags := d.negotiated()
			if minor != c.negotiated || flags != c.flags {
				t.Errorf("negotiated 7.%d %#x, want 7.%d %#x", minor, flags, c.negotiated, c.flags)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	disk := memoryDisk("disk", 10000)
	id := nodeID(disk.Name, disk.ID, 10000)
	bad := errors.New("bad")
	truncated := request(opGetattr, rootNode)[:inHeaderSize-1]
	long := append(request(opGetattr, rootNode), 0)
	for _, c := range []struct {
		name string
		req  []byte
		err  errno
	}{
		{"unknown operation", request(999, rootNode), errNOSYS},
		{"write to a disk that cannot be", writeRequest(id, 0, "x"), errPERM},
		{"punch a disk that cannot be written", request(opFallocate, id, uint64(0), uint64(0), uint64(512), 3, 0), errPERM},
		{"sync a disk that cannot be written", request(opFsync, id, uint64(0), 0, 0), errNone},
		{"change attributes", request(opSetattr, id), errPERM},
		{"access", request(34, id, 4, 0), errNOSYS},
		{"header cut off", truncated, errNone},
		{"longer than it says", long, errINVAL},
		{"look-up of nothing", request(opLookup, rootNode, "nothing"), errNOENT},
		{"look-up in a file", request(opLookup, id, "disk"), errNOTDIR},
		{"look-up without a name", request(opLookup, rootNode), errINVAL},
		{"look-up of a name with NUL", request(opLookup, rootNode, "di\x00sk"), errINVAL},
		{"attributes of nothing", request(opGetattr, 12345), errNOENT},
		{"open for writing", request(opOpen, id, 2, 0), errACCES},
		{"open the root", request(opOpen, rootNode, 0, 0), errISDIR},
		{"open nothing", request(opOpen, 5, 0, 0), errNOENT},
		{"open cut off", request(opOpen, id, 0), errINVAL},
		{"read nothing", readRequest(opRead, 5, 0, 10), errIO},
		{"read the root", readRequest(opRead, rootNode, 0, 10), errISDIR},
		{"read too much", readRequest(opRead, id, 0, MaxRead+1), errINVAL},
		{"read at a negative offset", readRequest(opRead, id, 1<<63, 10), errINVAL},
		{"read cut off", request(opRead, id, uint64(0)), errINVAL},
		{"list a file", readRequest(opReaddir, id, 0, 100), errNOTDIR},
		{"list too much", readRequest(opReaddir, rootNode, 0, -1), errINVAL},
		{"open a file as a directory", request(opOpendir, id, 0, 0), errNOTDIR},
		{"device fails", readRequest(opRead, nodeID("fails", "f", 4096), 0, 10), errIO},
		{"device reads short", readRequest(opRead, nodeID("short", "s", 4096), 0, 10), errIO},
		{"device ends early", readRequest(opRead, nodeID("early", "e", 4096), 0, 10), errIO},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDispatcher(t, disk,
				Disk{"fails", "f", broken{10, bad}}, Disk{"short", "s", broken{9, nil}}, Disk{"early", "e", broken{9, io.EOF}})
			if e, _ := ask(t, d, c.req); e != c.err {
				t.Errorf("error %d, want %d", e, c.err)
			}
		})
	}
}

// TestLeft gives no answer to a read that is left to the next process.
func TestLeft(t *testing.T) {
	d := newDispatcher(t, Disk{"left", "l", broken{0, fmt.Errorf("wrapped: %w", blockdev.ErrLeft)}})
	req := readRequest(opRead, nodeID("left", "l", 4096), 0, 10)
	if n := d.handle(req, make([]byte, replySize(req))); n != 0 {
		t.Errorf("a reply of %d bytes", n)
	}
}

func TestNoReply(t *testing.T) {
	d := newDispatcher(t)
	for _, op := range []uint32{opForget, opBatchForget, opInterrupt} {
		for _, req := range [][]byte{request(op, 1, uint64(1)), append(request(op, 1), 0)} {
			if n := d.handle(req, make([]byte, replySize(req))); n != 0 {
				t.Errorf("operation %d answered with %d bytes", op, n)
			}
		}
	}
}

func TestRead(t *testing.T) {
	want := content(10000)
	d := newDispatcher(t, memoryDisk("disk", len(want)))
	id := nodeID("disk", "id of disk", int64(len(want)))
	for _, c := range []struct{ off, size int }{
		{0, 0}, {0, 1}, {0, 4096}, {9999, 1}, {9999, 4096}, {10000, 10}, {1 << 40, 10}, {5, MaxRead},
	} {
		e, got := ask(t, d, readRequest(opRead, id, uint64(c.off), c.size))
		from := min(c.off, len(want))
		if to := min(from+c.size, len(want)); e != 0 || !bytes.Equal(got, want[from:to]) {
			t.Errorf("read %d at %d: error %d, %d bytes or wrong ones", c.size, c.off, e, len(got))
		}
	}
}

// list reads the directory in answers of at most size bytes.
func list(t *testing.T, d *dispatcher, size int, between func()) []string {
	t.Helper()
	var names []string
	cookie := uint64(0)
	for {
		e, out := ask(t, d, readRequest(opReaddir, rootNode, cookie, size))
		if e != 0 {
			t.Fatalf("list: error %d", e)
		}
		if len(out) == 0 {
			return names
		}
		for len(out) > 0 {
			cookie = order.Uint64(out[8:])
			n := int(order.Uint32(out[16:]))
			names = append(names, string(out[direntSize:direntSize+n]))
			out = out[(direntSize+n+7)&^7:]
		}
		between()
	}
}

func TestReaddirKeepsItsPlace(t *testing.T) {
	var disks []Disk
	for i := range 20 {
		disks = append(disks, memoryDisk(fmt.Sprint("disk", i), 512*i))
	}
	for _, size := range []int{32, 100, 4096} {
		d := newDispatcher(t, disks...)
		step := 0
		seen := map[string]int{}
		for _, name := range list(t, d, size, func() {
			step++ // others come and go meanwhile
			if err := d.tree.add(memoryDisk(fmt.Sprint("new", step), 1)); err != nil {
				t.Fatal(err)
			}
			if _, err := d.tree.remove(fmt.Sprint("new", step)); err != nil {
				t.Fatal(err)
			}
		}) {
			seen[name]++
		}
		if len(seen) != 22 {
			t.Errorf("%d names in answers of %d bytes, want 22", len(seen), size)
		}
		for name, n := range seen {
			if n != 1 {
				t.Errorf("%s listed %d times", name, n)
			}
		}
	}
}

func TestAddRemove(t *testing.T) {
	d := newDispatcher(t, memoryDisk("disk", 512))
	if err := d.tree.add(memoryDisk("disk", 1024)); !errors.Is(err, ErrExists) {
		t.Errorf("second disk of a name: %v, want ErrExists", err)
	}
	if _, err := d.tree.remove("other"); !errors.Is(err, ErrNotFound) {
		t.Errorf("remove of nothing: %v, want ErrNotFound", err)
	}
	for _, name := range []string{"", ".", "..", "a/b", "a\x00", string(content(MaxName + 1))} {
		if err := d.tree.add(Disk{name, "id", memory{bytes.NewReader(nil)}}); err == nil {
			t.Errorf("name %q taken", name)
		}
	}
	if err := d.tree.add(Disk{"x", "", memory{bytes.NewReader(nil)}}); err == nil {
		t.Error("disk without an ID taken")
	}
}

// Inode numbers are part of what two processes must agree on: they never change.
func TestNodeIDIsFixed(t *testing.T) {
	ids := map[uint64]bool{}
	for _, id := range []uint64{
		nodeID("disk", "a", 512), nodeID("disk", "b", 512), nodeID("diska", "", 512), nodeID("disk", "a", 1024),
	} {
		if ids[id] || id < 3 || id > 1<<62+2 {
			t.Errorf("inode number %#x twice or out of range", id)
		}
		ids[id] = true
	}
	if got, want := nodeID("disk", "a", 512), uint64(0x20cac0c5c0cd8142); got != want {
		t.Errorf("inode number %#x, want %#x", got, want)
	}
}

func TestReadDoesNotAllocate(t *testing.T) {
	d := newDispatcher(t, memoryDisk("disk", 8192))
	req := readRequest(opRead, nodeID("disk", "id of disk", 8192), 0, 4096)
	reply := make([]byte, replySize(req))
	if n := testing.AllocsPerRun(100, func() { d.handle(req, reply) }); n != 0 {
		t.Errorf("%v allocations a read", n)
	}
}

func FuzzRequest(f *testing.F) {
	id := nodeID("disk", "id of disk", 10000)
	f.Add(request(opInit, 0, 7, 45, 131072, 0x7fffffff, -1, uint64(0)))
	f.Add(request(opLookup, rootNode, "disk"))
	f.Add(request(opGetattr, id, uint64(0), uint64(0)))
	f.Add(request(opOpen, id, 0, 0))
	f.Add(request(opStatfs, rootNode))
	f.Add(request(opBatchForget, 0, 1, 0, id, uint64(1)))
	f.Add(readRequest(opRead, id, 9000, 4096))
	f.Add(readRequest(opReaddir, rootNode, 1, 64))
	scratch := nodeID("scratch", "id of scratch", 8192)
	f.Add(writeRequest(scratch, 5, "text"))
	f.Add(request(opFallocate, scratch, uint64(0), uint64(512), uint64(1024), 3, 0))
	f.Add(request(opFsync, scratch, uint64(0), 0, 0))
	want := content(10000)
	f.Fuzz(func(t *testing.T, req []byte) {
		d := newDispatcher(t, memoryDisk("disk", len(want)), scratchDisk())
		d.writable = true
		if len(req) > requestSize {
			return
		}
		n := replySize(req)
		if n < smallReplySize || n > outHeaderSize+MaxRead {
			t.Fatalf("reply buffer of %d bytes", n)
		}
		if len(req) < inHeaderSize {
			return
		}
		e, out := ask(t, d, req)
		h, body, ok := parse(req)
		if ok && h.opcode == opRead && e == 0 && len(out) > 0 {
			off := order.Uint64(body[8:])
			if !bytes.Equal(out, want[off:off+uint64(len(out))]) {
				t.Fatal("wrong bytes")
			}
		}
	})
}

func BenchmarkRead(b *testing.B) {
	for _, size := range []int{4096, 128 << 10, MaxRead} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			d := newDispatcher(b, memoryDisk("disk", 2*MaxRead))
			req := readRequest(opRead, nodeID("disk", "id of disk", 2*MaxRead), 0, size)
			reply := make([]byte, replySize(req))
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				d.handle(req, reply)
			}
		})
	}
}
