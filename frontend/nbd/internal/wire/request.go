package wire

// A Request is the header of one request. The payload of a WRITE, Length
// bytes, follows it.
type Request struct {
	Flags   uint16
	Command Command
	Cookie  uint64 // the client's, sent back with the reply
	Offset  uint64
	Length  uint32
}

// ParseRequest reads the RequestSize bytes of b.
func ParseRequest(b []byte) (Request, error) {
	if len(b) != RequestSize {
		return Request{}, ErrShort
	}
	if be.Uint32(b) != RequestMagic {
		return Request{}, ErrMagic
	}
	return Request{
		Flags:   be.Uint16(b[4:]),
		Command: Command(be.Uint16(b[6:])),
		Cookie:  be.Uint64(b[8:]),
		Offset:  be.Uint64(b[16:]),
		Length:  be.Uint32(b[24:]),
	}, nil
}

// Append appends the header that ParseRequest reads.
func (r Request) Append(dst []byte) []byte {
	dst = be.AppendUint32(dst, RequestMagic)
	dst = be.AppendUint16(dst, r.Flags)
	dst = be.AppendUint16(dst, uint16(r.Command))
	dst = be.AppendUint64(dst, r.Cookie)
	dst = be.AppendUint64(dst, r.Offset)
	return be.AppendUint32(dst, r.Length)
}

// Writes reports whether r, if it is served, changes the device.
func (r Request) Writes() bool {
	return r.Command == CmdWrite || r.Command == CmdTrim || r.Command == CmdWriteZeroes
}

// Check says how an export of size bytes answers r before it looks at the
// device: with zero if r may be served. A request that would change a read-only
// export gets EPERM, whatever its range; one with an unknown command, a flag
// that does not belong to it, or a range that is empty or not within the
// export, EINVAL, but a write over the end of a writable one ENOSPC, as the
// specification asks.
func (r Request) Check(size int64, writable bool) Errno {
	allowed := CmdFlagFUA // known clients set it on anything
	switch r.Command {
	case CmdWrite, CmdTrim, CmdWriteZeroes:
		if !writable {
			return EPERM
		}
		if r.Command == CmdWriteZeroes {
			allowed |= CmdFlagNoHole // FAST_ZERO is not offered
		}
	case CmdFlush:
		if r.Flags&^allowed != 0 {
			return EINVAL
		}
		return 0
	case CmdRead:
		allowed |= CmdFlagDF
	case CmdBlockStatus:
		allowed |= CmdFlagReqOne
	case CmdCache:
	default:
		return EINVAL
	}
	if r.Flags&^allowed != 0 || r.Length == 0 {
		return EINVAL
	}
	if r.Offset > uint64(size) || uint64(r.Length) > uint64(size)-r.Offset {
		if r.Command == CmdWrite || r.Command == CmdWriteZeroes {
			return ENOSPC
		}
		return EINVAL
	}
	if r.Command == CmdWrite && r.Length > MaxBlock {
		return EINVAL
	}
	if r.Command == CmdRead && r.Length > MaxBlock {
		if r.Flags&CmdFlagDF != 0 {
			return EOVERFLOW
		}
		return EINVAL
	}
	return 0
}
