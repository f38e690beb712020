package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

var be = binary.BigEndian

// AppendGreeting appends what the server says first.
func AppendGreeting(dst []byte, flags uint16) []byte {
	dst = be.AppendUint64(dst, InitMagic)
	dst = be.AppendUint64(dst, OptionMagic)
	return be.AppendUint16(dst, flags)
}

// ParseGreeting returns the handshake flags of a greeting.
func ParseGreeting(b []byte) (flags uint16, err error) {
	if len(b) != GreetingSize {
		return 0, ErrShort
	}
	if be.Uint64(b) != InitMagic || be.Uint64(b[8:]) != OptionMagic {
		return 0, ErrMagic
	}
	return be.Uint16(b[16:]), nil
}

// An OptionHeader precedes the Length bytes of an option's data.
type OptionHeader struct {
	Option Option
	Length uint32
}

// ParseOptionHeader reads the OptionHeaderSize bytes of b.
func ParseOptionHeader(b []byte) (OptionHeader, error) {
	if len(b) != OptionHeaderSize {
		return OptionHeader{}, ErrShort
	}
	if be.Uint64(b) != OptionMagic {
		return OptionHeader{}, ErrMagic
	}
	return OptionHeader{Option(be.Uint32(b[8:])), be.Uint32(b[12:])}, nil
}

// AppendOption appends an option with its data.
func AppendOption(dst []byte, o Option, data []byte) []byte {
	dst = be.AppendUint64(dst, OptionMagic)
	dst = be.AppendUint32(dst, uint32(o))
	dst = be.AppendUint32(dst, uint32(len(data)))
	return append(dst, data...)
}

// A ReplyHeader precedes the Length bytes of an answer to an option.
type ReplyHeader struct {
	Option Option
	Type   ReplyType
	Length uint32
}

// ParseReplyHeader reads the OptionReplyHeaderSize bytes of b.
func ParseReplyHeader(b []byte) (ReplyHeader, error) {
	if len(b) != OptionReplyHeaderSize {
		return ReplyHeader{}, ErrShort
	}
	if be.Uint64(b) != OptionReplyMagic {
		return ReplyHeader{}, ErrMagic
	}
	return ReplyHeader{Option(be.Uint32(b[8:])), ReplyType(be.Uint32(b[12:])), be.Uint32(b[16:])}, nil
}

// AppendReply appends one answer to option o.
func AppendReply(dst []byte, o Option, t ReplyType, data []byte) []byte {
	dst = be.AppendUint64(dst, OptionReplyMagic)
	dst = be.AppendUint32(dst, uint32(o))
	dst = be.AppendUint32(dst, uint32(t))
	dst = be.AppendUint32(dst, uint32(len(data)))
	return append(dst, data...)
}

// CheckName says whether s may name an export or a context: at most MaxString
// bytes of UTF-8 without NUL.
func CheckName(s string) error {
	switch {
	case len(s) > MaxString:
		return fmt.Errorf("name of %d bytes, at most %d allowed", len(s), MaxString)
	case !utf8.ValidString(s):
		return errors.New("name is not UTF-8")
	case strings.IndexByte(s, 0) >= 0:
		return errors.New("name has a NUL byte")
	}
	return nil
}

// cutString takes a string with a 32-bit length off the front of b.
func cutString(b []byte) (s string, rest []byte, err error) {
	if len(b) < 4 {
		return "", nil, ErrShort
	}
	n := be.Uint32(b)
	b = b[4:]
	if uint64(n) > uint64(len(b)) {
		return "", nil, ErrShort
	}
	s = string(b[:n])
	return s, b[n:], CheckName(s)
}

func appendString(dst []byte, s string) []byte {
	dst = be.AppendUint32(dst, uint32(len(s)))
	return append(dst, s...)
}

// An InfoRequest is the data of INFO and GO.
type InfoRequest struct {
	Name string
	Info []InfoType
}

// ParseInfoRequest reads all of data.
func ParseInfoRequest(data []byte) (InfoRequest, error) {
	name, rest, err := cutString(data)
	if err != nil {
		return InfoRequest{}, err
	}
	if len(rest) < 2 {
		return InfoRequest{}, ErrShort
	}
	n := int(be.Uint16(rest))
	rest = rest[2:]
	switch {
	case len(rest) < 2*n:
		return InfoRequest{}, ErrShort
	case len(rest) > 2*n:
		return InfoRequest{}, ErrLong
	}
	r := InfoRequest{Name: name}
	for ; len(rest) > 0; rest = rest[2:] {
		r.Info = append(r.Info, InfoType(be.Uint16(rest)))
	}
	return r, nil
}

// Append appends the data that ParseInfoRequest reads.
func (r InfoRequest) Append(dst []byte) []byte {
	dst = appendString(dst, r.Name)
	dst = be.AppendUint16(dst, uint16(len(r.Info)))
	for _, t := range r.Info {
		dst = be.AppendUint16(dst, uint16(t))
	}
	return dst
}

// A MetaRequest is the data of LIST_META_CONTEXT and SET_META_CONTEXT.
type MetaRequest struct {
	Name    string
	Queries []string
}

// ParseMetaRequest reads all of data.
func ParseMetaRequest(data []byte) (MetaRequest, error) {
	name, rest, err := cutString(data)
	if err != nil {
		return MetaRequest{}, err
	}
	if len(rest) < 4 {
		return MetaRequest{}, ErrShort
	}
	n := be.Uint32(rest)
	rest = rest[4:]
	r := MetaRequest{Name: name}
	for ; n > 0; n-- { // ends by ErrShort, for any n
		var q string
		if q, rest, err = cutString(rest); err != nil {
			return MetaRequest{}, err
		}
		r.Queries = append(r.Queries, q)
	}
	if len(rest) > 0 {
		return MetaRequest{}, ErrLong
	}
	return r, nil
}

// Append appends the data that ParseMetaRequest reads.
func (r MetaRequest) Append(dst []byte) []byte {
	dst = appendString(dst, r.Name)
	dst = be.AppendUint32(dst, uint32(len(r.Queries)))
	for _, q := range r.Queries {
		dst = appendString(dst, q)
	}
	return dst
}

// AppendServer appends the data of a SERVER answer: one name of the list.
func AppendServer(dst []byte, name, description string) []byte {
	return append(appendString(dst, name), description...)
}

// ParseServer reads the data of a SERVER answer.
func ParseServer(data []byte) (name, description string, err error) {
	name, rest, err := cutString(data)
	if err != nil {
		return "", "", err
	}
	return name, string(rest), CheckName(string(rest))
}

// ExportInfo is what a client must know of an export: its size in bytes and
// its transmission flags.
type ExportInfo struct {
	Size  uint64
	Flags uint16
}

// AppendInfoExport appends the data of an INFO answer of type InfoExport.
func AppendInfoExport(dst []byte, e ExportInfo) []byte {
	dst = be.AppendUint16(dst, uint16(InfoExport))
	dst = be.AppendUint64(dst, e.Size)
	return be.AppendUint16(dst, e.Flags)
}

// ParseInfoExport reads what AppendInfoExport writes.
func ParseInfoExport(data []byte) (ExportInfo, error) {
	if len(data) != 12 || InfoType(be.Uint16(data)) != InfoExport {
		return ExportInfo{}, ErrShort
	}
	return ExportInfo{be.Uint64(data[2:]), be.Uint16(data[10:])}, nil
}

// AppendInfoString appends the data of an INFO answer that is text.
func AppendInfoString(dst []byte, t InfoType, s string) []byte {
	return append(be.AppendUint16(dst, uint16(t)), s...)
}

// BlockSize holds an export's limits for requests, in bytes.
type BlockSize struct {
	Minimum, Preferred, Maximum uint32
}

// AppendInfoBlockSize appends the data of an INFO answer of type InfoBlockSize.
func AppendInfoBlockSize(dst []byte, b BlockSize) []byte {
	dst = be.AppendUint16(dst, uint16(InfoBlockSize))
	dst = be.AppendUint32(dst, b.Minimum)
	dst = be.AppendUint32(dst, b.Preferred)
	return be.AppendUint32(dst, b.Maximum)
}

// ParseInfoBlockSize reads what AppendInfoBlockSize writes.
func ParseInfoBlockSize(data []byte) (BlockSize, error) {
	if len(data) != 14 || InfoType(be.Uint16(data)) != InfoBlockSize {
		return BlockSize{}, ErrShort
	}
	return BlockSize{be.Uint32(data[2:]), be.Uint32(data[6:]), be.Uint32(data[10:])}, nil
}

// AppendMetaContext appends the data of a META_CONTEXT answer.
func AppendMetaContext(dst []byte, id uint32, name string) []byte {
	return append(be.AppendUint32(dst, id), name...)
}

// ParseMetaContext reads the data of a META_CONTEXT answer.
func ParseMetaContext(data []byte) (id uint32, name string, err error) {
	if len(data) < 4 {
		return 0, "", ErrShort
	}
	name = string(data[4:])
	return be.Uint32(data), name, CheckName(name)
}
