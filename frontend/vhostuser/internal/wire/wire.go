// Package wire has the messages between a vhost-user front end and a back end,
// and the virtio-blk structures that go with them, as the vhost-user protocol
// (QEMU's docs/interop/vhost-user.rst) and Virtio 1.2, section 5.2, define them.
//
// It only turns bytes into values and back: sockets, descriptors and order are its
// users'. Integers have the byte order of the host, which is little-endian on all
// platforms that rivulet runs on; virtio's are little-endian anyway.
package wire

import (
	"encoding/binary"
	"fmt"
)

// HeaderSize is the size of a message's header, in bytes.
const HeaderSize = 12

// MaxPayload bounds a message's payload, in bytes. The largest that either side
// sends is a configuration space of 256 bytes.
const MaxPayload = 512

// MaxFiles bounds the descriptors with one message.
const MaxFiles = MaxTable

// A Request is the number of a message.
type Request uint32

// The messages that a front end sends. Those of features that we never offer are
// not here.
const (
	GetFeatures         Request = 1
	SetFeatures         Request = 2
	SetOwner            Request = 3
	ResetOwner          Request = 4
	SetMemTable         Request = 5
	SetVringNum         Request = 8
	SetVringAddr        Request = 9
	SetVringBase        Request = 10
	GetVringBase        Request = 11
	SetVringKick        Request = 12
	SetVringCall        Request = 13
	SetVringErr         Request = 14
	GetProtocolFeatures Request = 15
	SetProtocolFeatures Request = 16
	GetQueueNum         Request = 17
	SetVringEnable      Request = 18
	GetConfig           Request = 24
	SetConfig           Request = 25
	GetInflightFD       Request = 31
	SetInflightFD       Request = 32
	ResetDevice         Request = 34
	GetMaxMemSlots      Request = 36
	AddMemReg           Request = 37
	RemMemReg           Request = 38
	SetStatus           Request = 39
	GetStatus           Request = 40
)

// Flags of a header.
const (
	version       = 1 << 0
	versionMask   = 3
	FlagReply     = 1 << 2
	FlagNeedReply = 1 << 3
)

// Virtio feature bits.
const (
	FeatureSegMax           = 1 << 2
	FeatureReadOnly         = 1 << 5
	FeatureBlockSize        = 1 << 6
	FeatureFlush            = 1 << 9
	FeatureTopology         = 1 << 10
	FeatureConfigWCE        = 1 << 11
	FeatureMultiQueue       = 1 << 12
	FeatureDiscard          = 1 << 13
	FeatureWriteZeroes      = 1 << 14
	FeatureIndirect         = 1 << 28
	FeatureEventIndex       = 1 << 29
	FeatureProtocolFeatures = 1 << 30
	FeatureVersion1         = 1 << 32
)

// Protocol feature bits.
const (
	ProtocolMultiQueue  = 1 << 0
	ProtocolReplyAck    = 1 << 3
	ProtocolConfig      = 1 << 9
	ProtocolInflight    = 1 << 12
	ProtocolResetDevice = 1 << 13
	ProtocolMemSlots    = 1 << 15
	ProtocolStatus      = 1 << 16
)

// A Header precedes each message.
type Header struct {
	Request Request
	Flags   uint32 // without the version
	Size    uint32 // of the payload, in bytes
}

// ParseHeader reads a header from the first HeaderSize bytes of b.
func ParseHeader(b []byte) (Header, error) {
	h := Header{
		Request: Request(binary.NativeEndian.Uint32(b)),
		Flags:   binary.NativeEndian.Uint32(b[4:]),
		Size:    binary.NativeEndian.Uint32(b[8:HeaderSize]),
	}
	if h.Flags&versionMask != version {
		return h, fmt.Errorf("message %d has version %d, want 1", h.Request, h.Flags&versionMask)
	}
	if h.Size > MaxPayload {
		return h, fmt.Errorf("message %d has %d bytes, at most %d", h.Request, h.Size, MaxPayload)
	}
	h.Flags &^= versionMask
	return h, nil
}

// Append adds the header to b.
func (h Header) Append(b []byte) []byte {
	b = binary.NativeEndian.AppendUint32(b, uint32(h.Request))
	b = binary.NativeEndian.AppendUint32(b, h.Flags&^versionMask|version)
	return binary.NativeEndian.AppendUint32(b, h.Size)
}

// want reports, by a nil error, that a payload has the size of what it should be.
func want(b []byte, size int, what string) error {
	if len(b) != size {
		return fmt.Errorf("%s of %d bytes, want %d", what, len(b), size)
	}
	return nil
}

// ParseUint64 reads the payload of messages that are one number.
func ParseUint64(b []byte) (uint64, error) {
	if err := want(b, 8, "number"); err != nil {
		return 0, err
	}
	return binary.NativeEndian.Uint64(b), nil
}

// AppendUint64 adds one number to b.
func AppendUint64(b []byte, v uint64) []byte { return binary.NativeEndian.AppendUint64(b, v) }

// A VringFile is the payload of SetVringKick, SetVringCall and SetVringErr.
type VringFile struct {
	Index  int
	NoFile bool // no descriptor comes with it: whoever would be woken polls
}

const vringNoFile = 1 << 8

// ParseVringFile reads a VringFile.
func ParseVringFile(b []byte) (VringFile, error) {
	v, err := ParseUint64(b)
	return VringFile{int(v & 0xff), v&vringNoFile != 0}, err
}

// Append adds f to b.
func (f VringFile) Append(b []byte) []byte {
	v := uint64(f.Index)
	if f.NoFile {
		v |= vringNoFile
	}
	return AppendUint64(b, v)
}

// A VringState is a number for one ring: its size, its next index or whether it is
// enabled, as the message says.
type VringState struct {
	Index, Num uint32
}

// ParseVringState reads a VringState.
func ParseVringState(b []byte) (VringState, error) {
	if err := want(b, 8, "ring state"); err != nil {
		return VringState{}, err
	}
	return VringState{binary.NativeEndian.Uint32(b), binary.NativeEndian.Uint32(b[4:])}, nil
}

// Append adds s to b.
func (s VringState) Append(b []byte) []byte {
	b = binary.NativeEndian.AppendUint32(b, s.Index)
	return binary.NativeEndian.AppendUint32(b, s.Num)
}

// A VringAddr tells where a ring lies, in the front end's own addresses.
type VringAddr struct {
	Index, Flags           uint32
	Desc, Used, Avail, Log uint64
}

const vringAddrSize = 40

// ParseVringAddr reads a VringAddr.
func ParseVringAddr(b []byte) (VringAddr, error) {
	if err := want(b, vringAddrSize, "ring addresses"); err != nil {
		return VringAddr{}, err
	}
	u := binary.NativeEndian
	return VringAddr{u.Uint32(b), u.Uint32(b[4:]), u.Uint64(b[8:]), u.Uint64(b[16:]), u.Uint64(b[24:]), u.Uint64(b[32:])}, nil
}

// Append adds a to b.
func (a VringAddr) Append(b []byte) []byte {
	b = VringState{a.Index, a.Flags}.Append(b)
	for _, v := range [...]uint64{a.Desc, a.Used, a.Avail, a.Log} {
		b = AppendUint64(b, v)
	}
	return b
}

// MaxTable bounds the regions of one SetMemTable, each of which comes with a
// descriptor.
const MaxTable = 8

// A Region is a part of the guest's memory, which lies in a file.
type Region struct {
	Guest  uint64 // guest-physical address
	Size   uint64 // bytes
	User   uint64 // the front end's address
	Offset uint64 // in the file
}

const regionSize = 32

func parseRegion(b []byte) Region {
	u := binary.NativeEndian
	return Region{u.Uint64(b), u.Uint64(b[8:]), u.Uint64(b[16:]), u.Uint64(b[24:])}
}

// check reports, by a nil error, that a region is not empty and that no address in
// it is beyond what fits.
func (r Region) check() error {
	if r.Size == 0 || r.Guest+r.Size < r.Guest || r.User+r.Size < r.User || r.Offset+r.Size < r.Offset || int64(r.Offset+r.Size) < 0 {
		return fmt.Errorf("memory region of %#x bytes at %#x, offset %#x: bad size", r.Size, r.Guest, r.Offset)
	}
	return nil
}

func (r Region) append(b []byte) []byte {
	for _, v := range [...]uint64{r.Guest, r.Size, r.User, r.Offset} {
		b = AppendUint64(b, v)
	}
	return b
}

// ParseTable reads the payload of SetMemTable: at most MaxTable regions.
func ParseTable(b []byte) ([]Region, error) {
	if len(b) < 8 {
		return nil, fmt.Errorf("memory table of %d bytes", len(b))
	}
	n := binary.NativeEndian.Uint32(b)
	if n > MaxTable {
		return nil, fmt.Errorf("memory table of %d regions, at most %d", n, MaxTable)
	}
	if err := want(b, 8+regionSize*int(n), "memory table"); err != nil {
		return nil, err
	}
	table := make([]Region, n)
	for i := range table {
		table[i] = parseRegion(b[8+regionSize*i:])
		if err := table[i].check(); err != nil {
			return nil, err
		}
	}
	return table, nil
}

// AppendTable adds a memory table to b.
func AppendTable(b []byte, table []Region) []byte {
	b = binary.NativeEndian.AppendUint32(b, uint32(len(table)))
	b = binary.NativeEndian.AppendUint32(b, 0)
	for _, r := range table {
		b = r.append(b)
	}
	return b
}

// ParseRegion reads the payload of AddMemReg and RemMemReg.
func ParseRegion(b []byte) (Region, error) {
	if err := want(b, 8+regionSize, "memory region"); err != nil {
		return Region{}, err
	}
	r := parseRegion(b[8:])
	return r, r.check()
}

// Append adds the region, alone, to b.
func (r Region) Append(b []byte) []byte { return r.append(AppendUint64(b, 0)) }

// MaxConfig bounds the configuration space, in bytes.
const MaxConfig = 256

// A Config is a part of the configuration space, read or written.
type Config struct {
	Offset uint32
	Flags  uint32
	Data   []byte // shares the payload's memory
}

const configHeader = 12

// ParseConfig reads the payload of GetConfig, whose data mean nothing, and of
// SetConfig.
func ParseConfig(b []byte) (Config, error) {
	if len(b) < configHeader {
		return Config{}, fmt.Errorf("configuration message of %d bytes", len(b))
	}
	c := Config{binary.NativeEndian.Uint32(b), binary.NativeEndian.Uint32(b[8:]), b[configHeader:]}
	size := binary.NativeEndian.Uint32(b[4:])
	if uint64(size) != uint64(len(c.Data)) || c.Offset > MaxConfig || size > MaxConfig-c.Offset {
		return c, fmt.Errorf("configuration message for %d bytes at %d, with %d", size, c.Offset, len(c.Data))
	}
	return c, nil
}

// Append adds c to b.
func (c Config) Append(b []byte) []byte {
	b = binary.NativeEndian.AppendUint32(b, c.Offset)
	b = binary.NativeEndian.AppendUint32(b, uint32(len(c.Data)))
	b = binary.NativeEndian.AppendUint32(b, c.Flags)
	return append(b, c.Data...)
}

// An Inflight describes the memory in which a back end notes the requests that it
// has begun, for the next back end.
type Inflight struct {
	Size, Offset      uint64 // of the memory in its file
	Queues, QueueSize uint16
}

// The structure has four bytes of padding at its end, which some leave out.
const (
	inflightSize   = 20
	inflightPadded = 24
)

// ParseInflight reads the payload of GetInflightFD and SetInflightFD.
func ParseInflight(b []byte) (Inflight, error) {
	if len(b) == inflightPadded {
		b = b[:inflightSize]
	}
	if err := want(b, inflightSize, "inflight description"); err != nil {
		return Inflight{}, err
	}
	u := binary.NativeEndian
	i := Inflight{u.Uint64(b), u.Uint64(b[8:]), u.Uint16(b[16:]), u.Uint16(b[18:])}
	if i.Offset+i.Size < i.Size || int64(i.Offset+i.Size) < 0 {
		return i, fmt.Errorf("inflight memory of %#x bytes at %#x: bad size", i.Size, i.Offset)
	}
	return i, nil
}

// Append adds i to b.
func (i Inflight) Append(b []byte) []byte {
	b = AppendUint64(AppendUint64(b, i.Size), i.Offset)
	b = binary.NativeEndian.AppendUint16(b, i.Queues)
	b = binary.NativeEndian.AppendUint16(b, i.QueueSize)
	return append(b, 0, 0, 0, 0)
}
