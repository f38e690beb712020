package fuse

import "encoding/binary"

// The numbers below are those of the kernel's FUSE protocol, version 7, as
// include/uapi/linux/fuse.h declares it. Integers are in the machine's order.
const (
	protoMajor = 7
	protoMinor = 41 // the newest this server was written against
	minMinor   = 23 // Linux 3.15: the first with today's reply sizes

	rootNode = 1
)

// Sizes in bytes of the fixed parts of requests and replies.
const (
	inHeaderSize  = 40
	outHeaderSize = 16

	initInMinSize  = 16
	initInExtSize  = 20 // up to and with the second word of flags
	initOutSize    = 64
	openInSize     = 8
	openOutSize    = 16
	readInSize     = 40 // READDIR's too
	writeInSize    = 40 // before the data
	writeOutSize   = 8
	fallocInSize   = 32
	attrSize       = 88
	attrOutSize    = 16 + attrSize
	entryOutSize   = 40 + attrSize
	statfsOutSize  = 80
	direntSize     = 24 // before the name
	smallReplySize = outHeaderSize + entryOutSize
)

// Limits that are ours.
const (
	// MaxRead is the most bytes that one READ may ask for: 256 pages of 4 KiB,
	// what Linux allows without a changed sysctl.
	MaxRead = 1 << 20
	// MaxWrite is the most bytes that one WRITE may bring, and so what a worker of a
	// session that can be written keeps for requests.
	MaxWrite = 256 << 10
	// MaxName is the longest name of a disk in bytes.
	MaxName = 255

	// requestSize holds every request of a read-only session; the kernel refuses
	// to fill a smaller buffer. leastWrite keeps it so small.
	requestSize = 8192
	leastWrite  = 4096

	maxPages = MaxRead / 4096
)

const (
	opLookup      = 1
	opForget      = 2
	opGetattr     = 3
	opSetattr     = 4
	opOpen        = 14
	opRead        = 15
	opWrite       = 16
	opStatfs      = 17
	opRelease     = 18
	opFsync       = 20
	opInit        = 26
	opOpendir     = 27
	opReaddir     = 28
	opReleasedir  = 29
	opInterrupt   = 36
	opDestroy     = 38
	opBatchForget = 42
	opFallocate   = 43
)

// Notifications, sent by us in the error field of a reply to request 0.
const (
	notifyInvalEntry = 3
	notifyResend     = 7
)

// Flags of INIT; those above bit 31 travel in a second word.
const (
	flagAsyncRead      = 1 << 0
	flagAsyncDirectIO  = 1 << 15
	flagParallelDirOps = 1 << 18
	flagMaxPages       = 1 << 22
	flagExplicitInval  = 1 << 25
	flagInitExt        = 1 << 30
	flagHasResend      = 1 << 39

	wantedFlags = flagAsyncRead | flagAsyncDirectIO | flagParallelDirOps |
		flagMaxPages | flagExplicitInval | flagInitExt | flagHasResend
)

// openKeepCache tells the kernel that cached pages outlive the last close.
const openKeepCache = 1 << 1

// An errno is a Linux error number; the protocol's are Linux's on every system.
type errno int32

const (
	errNone    errno = 0
	errPERM    errno = 1
	errNOENT   errno = 2
	errIO      errno = 5
	noAnswer   errno = -1 // of no error: there is no reply
	errACCES   errno = 13
	errNOTDIR  errno = 20
	errISDIR   errno = 21
	errINVAL   errno = 22
	errFBIG    errno = 27
	errNOSPC   errno = 28
	errNOSYS   errno = 38
	errPROTO   errno = 71
	errNOTSUP  errno = 95
	accessMode       = 3 // the bits of open flags that tell read from write
)

// Modes of FALLOCATE: what fallocate(2) takes.
const (
	fallocKeepSize  = 0x01
	fallocPunchHole = 0x02
	fallocZeroRange = 0x10
)

// Kinds of file in st_mode, and in the type field of a directory entry.
const (
	modeDir  = 0o040000
	modeFile = 0o100000
	typeDir  = modeDir >> 12
	typeFile = modeFile >> 12
)

var order = binary.NativeEndian

// A header is the part that all requests begin with.
type header struct {
	length uint32 // of the whole request, this header included
	opcode uint32
	unique uint64
	node   uint64
}

// parse splits a request. It says false if the request is shorter than its
// header or its length is not the one the header tells.
func parse(req []byte) (header, []byte, bool) {
	if len(req) < inHeaderSize {
		return header{}, nil, false
	}
	h := header{
		length: order.Uint32(req),
		opcode: order.Uint32(req[4:]),
		unique: order.Uint64(req[8:]),
		node:   order.Uint64(req[16:]),
	}
	if uint64(h.length) != uint64(len(req)) {
		return header{}, nil, false
	}
	return h, req[inHeaderSize:], true
}

// putHeader writes a reply's header for a reply of n bytes in all.
func putHeader(reply []byte, n int, e errno, unique uint64) {
	order.PutUint32(reply, uint32(n))
	order.PutUint32(reply[4:], uint32(-e))
	order.PutUint64(reply[8:], unique)
}
