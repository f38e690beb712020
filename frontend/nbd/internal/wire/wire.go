// Package wire holds the numbers of the NBD protocol and the pure functions
// that turn its messages into values and back, for the server and the client.
//
// The specification is doc/proto.md of the NetworkBlockDevice project. All
// integers are big endian. A parser gets bytes that a hostile peer wrote: each
// checks every length against what is there, and none allocates more than a
// small multiple of its input. What a parser accepts, the matching Append
// function turns into the same bytes again.
package wire

import "errors"

// Magic numbers, in the order a connection shows them.
const (
	InitMagic        uint64 = 0x4e42444d41474943 // "NBDMAGIC"
	OptionMagic      uint64 = 0x49484156454f5054 // "IHAVEOPT"
	OptionReplyMagic uint64 = 0x0003e889045565a9
	RequestMagic     uint32 = 0x25609513
	SimpleReplyMagic uint32 = 0x67446698
	ChunkMagic       uint32 = 0x668e33ef
)

// Sizes of the fixed parts, in bytes.
const (
	GreetingSize          = 18 // two magics and the handshake flags
	OptionHeaderSize      = 16
	OptionReplyHeaderSize = 20
	RequestSize           = 28
	SimpleReplySize       = 16
	ChunkHeaderSize       = 20
	ExportNameZeroes      = 124 // pads the answer to EXPORT_NAME
)

// Limits that the specification sets, in bytes.
const (
	MaxString = 4096     // names, queries, descriptions
	MaxInfo   = 64 << 10 // the data of one option we still look at
	MaxBlock  = 32 << 20 // the largest request every server should serve
	MinDF     = 64 << 10 // reads up to this may not be refused for DF
)

// Handshake flags: what the server offers and the client takes.
const (
	FlagFixedNewstyle uint16 = 1 << 0
	FlagNoZeroes      uint16 = 1 << 1
)

// Transmission flags: what one export can do.
const (
	FlagHasFlags     uint16 = 1 << 0
	FlagReadOnly     uint16 = 1 << 1
	FlagSendFlush    uint16 = 1 << 2
	FlagSendFUA      uint16 = 1 << 3
	FlagSendTrim     uint16 = 1 << 5
	FlagSendZeroes   uint16 = 1 << 6
	FlagSendDF       uint16 = 1 << 7
	FlagCanMultiConn uint16 = 1 << 8
	FlagSendCache    uint16 = 1 << 10
)

// An Option is what the client asks for in the handshake.
type Option uint32

// The options of the fixed newstyle handshake.
const (
	OptExportName      Option = 1
	OptAbort           Option = 2
	OptList            Option = 3
	OptStartTLS        Option = 5
	OptInfo            Option = 6
	OptGo              Option = 7
	OptStructuredReply Option = 8
	OptListMeta        Option = 9
	OptSetMeta         Option = 10
)

// A ReplyType is the kind of the server's answer to an option. Those with the
// top bit set are errors, and carry an optional message.
type ReplyType uint32

// The answers to options.
const (
	RepAck         ReplyType = 1
	RepServer      ReplyType = 2
	RepInfo        ReplyType = 3
	RepMetaContext ReplyType = 4
	RepErrUnsup    ReplyType = 1<<31 + 1
	RepErrPolicy   ReplyType = 1<<31 + 2
	RepErrInvalid  ReplyType = 1<<31 + 3
	RepErrTLSReqd  ReplyType = 1<<31 + 5
	RepErrUnknown  ReplyType = 1<<31 + 6
	RepErrShutdown ReplyType = 1<<31 + 7
	RepErrTooBig   ReplyType = 1<<31 + 9
)

// IsError reports whether the option failed.
func (t ReplyType) IsError() bool { return t>>31 == 1 }

// An InfoType names one piece of information about an export.
type InfoType uint16

// The information that INFO and GO can ask for.
const (
	InfoExport      InfoType = 0
	InfoName        InfoType = 1
	InfoDescription InfoType = 2
	InfoBlockSize   InfoType = 3
)

// A Command is the type of a request.
type Command uint16

// The commands of the transmission phase.
const (
	CmdRead        Command = 0
	CmdWrite       Command = 1
	CmdDisc        Command = 2
	CmdFlush       Command = 3
	CmdTrim        Command = 4
	CmdCache       Command = 5
	CmdWriteZeroes Command = 6
	CmdBlockStatus Command = 7
)

// Command flags.
const (
	CmdFlagFUA      uint16 = 1 << 0
	CmdFlagNoHole   uint16 = 1 << 1
	CmdFlagDF       uint16 = 1 << 2
	CmdFlagReqOne   uint16 = 1 << 3
	CmdFlagFastZero uint16 = 1 << 4
)

// A ChunkType is the kind of one chunk of a structured reply. Those with the
// top bit set are errors.
type ChunkType uint16

// The chunks of a structured reply.
const (
	ChunkNone        ChunkType = 0
	ChunkData        ChunkType = 1
	ChunkHole        ChunkType = 2
	ChunkBlockStatus ChunkType = 5
	ChunkError       ChunkType = 1<<15 + 1
	ChunkErrorOffset ChunkType = 1<<15 + 2
)

// IsError reports whether the chunk says that the request failed.
func (t ChunkType) IsError() bool { return t>>15 == 1 }

// ChunkFlagDone marks the last chunk of a reply.
const ChunkFlagDone uint16 = 1 << 0

// The metadata contexts that the server knows, and their status flags.
const (
	ContextAllocation = "base:allocation"
	ContextLocal      = "rivulet:local"

	StateHole   uint32 = 1 << 0 // base:allocation: takes no storage
	StateZero   uint32 = 1 << 1 // base:allocation: reads as zeros
	StateRemote uint32 = 1 << 0 // rivulet:local: reading goes to the origin
)

// Errors of the parsers. A parse error that is none of these tells what was
// wrong with one field.
var (
	ErrMagic = errors.New("wrong magic number")
	ErrShort = errors.New("message ends early")
	ErrLong  = errors.New("bytes after the end of the message")
)

// An Errno is the error number of a failed request, as the protocol numbers
// them; zero is success.
type Errno uint32

// The error numbers of the protocol.
const (
	EPERM     Errno = 1
	EIO       Errno = 5
	ENOMEM    Errno = 12
	EINVAL    Errno = 22
	ENOSPC    Errno = 28
	EOVERFLOW Errno = 75
	ENOTSUP   Errno = 95
	ESHUTDOWN Errno = 108
)

// Error returns the number's meaning in words.
func (e Errno) Error() string {
	switch e {
	case EPERM:
		return "operation not permitted"
	case EIO:
		return "input/output error"
	case ENOMEM:
		return "out of memory"
	case EINVAL:
		return "invalid argument"
	case ENOSPC:
		return "no space left"
	case EOVERFLOW:
		return "value too large"
	case ENOTSUP:
		return "operation not supported"
	case ESHUTDOWN:
		return "server is shutting down"
	}
	return "unknown error number"
}
