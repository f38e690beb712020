package fuse

import (
	"bytes"
	"errors"
	"io"
	"math"
	"sync"

	"github.com/rivuletfs/rivulet/blockdev"
)

// A dispatcher turns one request into one reply, in memory: it knows nothing
// of descriptors or of the kernel. Any number of calls may run at once.
type dispatcher struct {
	tree       *tree
	uid, gid   uint32
	allowOther bool
	writable   bool   // disks that are writers can be written
	background uint16 // requests the kernel may queue unasked (readahead, async I/O)

	mu    sync.Mutex
	minor uint32 // negotiated by INIT; 0 before
	flags uint64 // negotiated by INIT

	once  sync.Once
	ready chan struct{} // closed, once, by the first INIT that succeeds
}

// cacheSeconds is how long the kernel may keep names and attributes: content
// never changes, and RemoveDisk recalls names.
const cacheSeconds = 365 * 24 * 3600

// replySize is the length of the buffer that handle needs for this request.
func replySize(req []byte) int {
	h, body, ok := parse(req)
	if !ok || len(body) < readInSize || (h.opcode != opRead && h.opcode != opReaddir) {
		return smallReplySize
	}
	return max(smallReplySize, outHeaderSize+int(min(order.Uint32(body[16:]), MaxRead)))
}

// isSlow reports whether others must not wait for this request: it changes a disk, or reads much
// of one.
func isSlow(req []byte) bool {
	h, body, ok := parse(req)
	if !ok {
		return false
	}
	switch h.opcode {
	case opRead:
		return len(body) >= readInSize && order.Uint32(body[16:]) > ownBytes
	case opWrite, opFsync, opFallocate:
		return true
	}
	return false
}

// ownBytes is the most that the leader reads for others to wait: what the kernel reads ahead
// of files. That takes some 60 µs if it is in memory.
const ownBytes = 128 << 10

// handle answers one request in reply, which has at least replySize(req)
// bytes, and returns the answer's length: 0 if the request wants none.
func (d *dispatcher) handle(req, reply []byte) int {
	h, body, ok := parse(req)
	if !ok {
		return d.malformed(req, reply)
	}
	out := reply[outHeaderSize:]
	n, e := 0, errNone
	switch h.opcode {
	case opForget, opBatchForget, opInterrupt:
		return 0
	case opInit:
		n, e = d.init(body, out)
	case opLookup:
		n, e = d.lookup(h.node, body, out)
	case opGetattr:
		n, e = d.getattr(h.node, out)
	case opOpen:
		n, e = d.open(h.node, body, out)
	case opRead:
		n, e = d.read(h.node, body, out)
	case opWrite:
		n, e = d.write(h.node, body, out)
	case opFsync:
		e = d.fsync(h.node)
	case opFallocate:
		e = d.fallocate(h.node, body)
	case opSetattr:
		e = errPERM // a disk's size, owner and mode are as they are
	case opStatfs:
		n = d.statfs(out)
	case opOpendir:
		n, e = d.opendir(h.node, out)
	case opReaddir:
		n, e = d.readdir(h.node, body, out)
	case opRelease, opReleasedir, opDestroy:
	default:
		e = errNOSYS
	}
	if e == noAnswer {
		return 0
	}
	if e != errNone {
		n = 0
	}
	putHeader(reply, outHeaderSize+n, e, h.unique)
	return outHeaderSize + n
}

// malformed answers a request whose length is wrong, if it can be named.
func (d *dispatcher) malformed(req, reply []byte) int {
	if len(req) < inHeaderSize {
		return 0
	}
	switch order.Uint32(req[4:]) {
	case opForget, opBatchForget, opInterrupt:
		return 0
	}
	putHeader(reply, outHeaderSize, errINVAL, order.Uint64(req[8:]))
	return outHeaderSize
}

func (d *dispatcher) init(body, out []byte) (int, errno) {
	if len(body) < initInMinSize {
		return 0, errINVAL
	}
	major, minor := order.Uint32(body), order.Uint32(body[4:])
	if major < protoMajor || (major == protoMajor && minor < minMinor) {
		return 0, errPROTO
	}
	out = out[:initOutSize]
	clear(out)
	order.PutUint32(out, protoMajor)
	order.PutUint32(out[4:], protoMinor)
	if major > protoMajor {
		return initOutSize, errNone // the kernel asks again with our version
	}
	flags := uint64(order.Uint32(body[12:]))
	if flags&flagInitExt != 0 && len(body) >= initInExtSize {
		flags |= uint64(order.Uint32(body[16:])) << 32
	}
	flags &= wantedFlags
	order.PutUint32(out[8:], MaxRead) // readahead
	order.PutUint32(out[12:], uint32(flags))
	order.PutUint16(out[16:], d.background)
	order.PutUint16(out[18:], d.background-d.background/4) // congestion
	order.PutUint32(out[20:], d.maxWrite())
	order.PutUint32(out[24:], 1) // times in nanoseconds
	if flags&flagMaxPages != 0 {
		order.PutUint16(out[28:], maxPages)
	}
	order.PutUint32(out[32:], uint32(flags>>32))
	d.setNegotiated(min(minor, protoMinor), flags)
	return initOutSize, errNone
}

// setNegotiated records what INIT agreed on.
func (d *dispatcher) setNegotiated(minor uint32, flags uint64) {
	d.mu.Lock()
	d.minor, d.flags = minor, flags
	d.mu.Unlock()
	d.once.Do(func() { close(d.ready) })
}

func (d *dispatcher) negotiated() (minor uint32, flags uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.minor, d.flags
}

func (d *dispatcher) lookup(parent uint64, body, out []byte) (int, errno) {
	if parent != rootNode {
		return 0, errNOTDIR
	}
	end := bytes.IndexByte(body, 0)
	if end < 0 || end != len(body)-1 {
		return 0, errINVAL
	}
	d.tree.mu.RLock()
	n := d.tree.named(string(body[:end]))
	d.tree.mu.RUnlock()
	if n == nil {
		return 0, errNOENT // without an entry, so that the kernel asks again
	}
	out = out[:entryOutSize]
	clear(out)
	order.PutUint64(out, n.id)
	order.PutUint64(out[16:], cacheSeconds)
	order.PutUint64(out[24:], cacheSeconds)
	d.putFile(out[40:], n)
	return entryOutSize, errNone
}

func (d *dispatcher) getattr(id uint64, out []byte) (int, errno) {
	out = out[:attrOutSize]
	clear(out)
	order.PutUint64(out, cacheSeconds)
	if id == rootNode {
		d.putAttr(out[16:], rootNode, 0, modeDir|d.permission(0o555), 2)
		return attrOutSize, errNone
	}
	n := d.tree.get(id)
	if n == nil {
		return 0, errNOENT
	}
	d.putFile(out[16:], n)
	return attrOutSize, errNone
}

func (d *dispatcher) putFile(out []byte, n *node) {
	mode := uint32(0o444)
	if d.writer(n) != nil {
		mode = 0o644
	}
	d.putAttr(out, n.id, n.size, modeFile|d.permission(mode), 1)
}

// permission keeps the owner's bits only, unless the mount is for everybody.
func (d *dispatcher) permission(mode uint32) uint32 {
	if d.allowOther {
		return mode
	}
	return mode & 0o700
}

// putAttr writes attributes into attrSize cleared bytes. Times stay zero, so
// that they are the same after a takeover.
func (d *dispatcher) putAttr(out []byte, id uint64, size int64, mode, links uint32) {
	order.PutUint64(out, id)
	order.PutUint64(out[8:], uint64(size))
	order.PutUint64(out[16:], blocks(size, 512))
	order.PutUint32(out[60:], mode)
	order.PutUint32(out[64:], links)
	order.PutUint32(out[68:], d.uid)
	order.PutUint32(out[72:], d.gid)
	order.PutUint32(out[80:], 4096) // preferred I/O size
}

// blocks is size in units, rounded up.
func blocks(size int64, unit uint64) uint64 {
	return (uint64(size) + unit - 1) / unit
}

func (d *dispatcher) open(id uint64, body, out []byte) (int, errno) {
	if len(body) < openInSize {
		return 0, errINVAL
	}
	if id == rootNode {
		return 0, errISDIR
	}
	n := d.tree.get(id)
	if n == nil {
		return 0, errNOENT
	}
	if order.Uint32(body)&accessMode != 0 && d.writer(n) == nil {
		return 0, errACCES
	}
	out = out[:openOutSize]
	clear(out)
	order.PutUint32(out[8:], openKeepCache)
	return openOutSize, errNone
}

// read reads from the device straight into the reply.
func (d *dispatcher) read(id uint64, body, out []byte) (int, errno) {
	if len(body) < readInSize {
		return 0, errINVAL
	}
	off, size := order.Uint64(body[8:]), order.Uint32(body[16:])
	if size > MaxRead || off > math.MaxInt64 {
		return 0, errINVAL
	}
	if id == rootNode {
		return 0, errISDIR
	}
	n := d.tree.begin(id)
	if n == nil {
		return 0, errIO // removed under an open file
	}
	defer n.calls.Done()
	if int64(off) >= n.size {
		return 0, errNone
	}
	want := int(min(int64(size), n.size-int64(off)))
	got, err := n.Device.ReadAt(out[:want], int64(off))
	if errors.Is(err, blockdev.ErrLeft) {
		return 0, noAnswer // whoever resumes the session has it sent again
	}
	if got != want || (err != nil && !errors.Is(err, io.EOF)) {
		return 0, errIO
	}
	return want, errNone
}

func (d *dispatcher) statfs(out []byte) int {
	out = out[:statfsOutSize]
	clear(out)
	d.tree.mu.RLock()
	defer d.tree.mu.RUnlock()
	var total uint64
	for _, n := range d.tree.sorted {
		total += blocks(n.size, 4096)
	}
	order.PutUint64(out, total)
	order.PutUint64(out[24:], uint64(len(d.tree.sorted)))
	order.PutUint32(out[40:], 4096)
	order.PutUint32(out[44:], MaxName)
	order.PutUint32(out[48:], 4096)
	return statfsOutSize
}

func (d *dispatcher) opendir(id uint64, out []byte) (int, errno) {
	if id != rootNode {
		return 0, errNOTDIR
	}
	clear(out[:openOutSize])
	return openOutSize, errNone
}

// readdir lists from the cookie on, in the order of inode numbers: a listing
// under way keeps its place when disks come and go.
func (d *dispatcher) readdir(id uint64, body, out []byte) (int, errno) {
	if len(body) < readInSize {
		return 0, errINVAL
	}
	if id != rootNode {
		return 0, errNOTDIR
	}
	cookie, size := order.Uint64(body[8:]), order.Uint32(body[16:])
	if size > MaxRead {
		return 0, errINVAL
	}
	out = out[:size]
	used := 0
	for i, name := range []string{".", ".."} {
		if at := uint64(i + 1); cookie < at {
			n := putDirent(out[used:], rootNode, at, typeDir, name)
			if n == 0 {
				return used, errNone
			}
			used += n
		}
	}
	d.tree.mu.RLock()
	defer d.tree.mu.RUnlock()
	for _, f := range d.tree.sorted[d.tree.after(cookie):] {
		n := putDirent(out[used:], f.id, f.id, typeFile, f.Name)
		if n == 0 {
			break
		}
		used += n
	}
	return used, errNone
}

// putDirent writes one entry and returns its length, a multiple of eight, or 0
// if it does not fit.
func putDirent(out []byte, ino, cookie uint64, kind uint32, name string) int {
	n := (direntSize + len(name) + 7) &^ 7
	if n > len(out) {
		return 0
	}
	clear(out[:n])
	order.PutUint64(out, ino)
	order.PutUint64(out[8:], cookie)
	order.PutUint32(out[16:], uint32(len(name)))
	order.PutUint32(out[20:], kind)
	copy(out[direntSize:], name)
	return n
}
