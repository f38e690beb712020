package wire

import (
	"bytes"
	"errors"
	"testing"
)

func FuzzInfoRequest(f *testing.F) {
	f.Add(InfoRequest{Name: "disk", Info: []InfoType{InfoName, InfoBlockSize}}.Append(nil))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0, 0, 0, 0, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseInfoRequest(data)
		if err == nil && !bytes.Equal(r.Append(nil), data) {
			t.Errorf("%x: encoded again as %x", data, r.Append(nil))
		}
	})
}

func FuzzMetaRequest(f *testing.F) {
	f.Add(MetaRequest{Name: "disk", Queries: []string{ContextAllocation, "x:"}}.Append(nil))
	f.Add([]byte{0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseMetaRequest(data)
		if err == nil && !bytes.Equal(r.Append(nil), data) {
			t.Errorf("%x: encoded again as %x", data, r.Append(nil))
		}
	})
}

func FuzzRequestHeader(f *testing.F) {
	f.Add(Request{Command: CmdRead, Cookie: 7, Offset: 512, Length: 4096}.Append(nil), int64(1<<20))
	f.Add(Request{Command: CmdRead, Offset: 1<<64 - 1, Length: 1}.Append(nil), int64(1<<20))
	f.Add(Request{Command: CmdWrite, Offset: 1<<20 - 1, Length: 2}.Append(nil), int64(1<<20))
	f.Fuzz(func(t *testing.T, data []byte, size int64) {
		r, err := ParseRequest(data)
		if err != nil {
			return
		}
		if !bytes.Equal(r.Append(nil), data) {
			t.Errorf("%x: encoded again as %x", data, r.Append(nil))
		}
		for _, writable := range []bool{false, true} {
			if size < 0 || r.Check(size, writable) != 0 || r.Command == CmdFlush {
				continue
			}
			if r.Offset+uint64(r.Length) > uint64(size) || r.Offset+uint64(r.Length) < r.Offset {
				t.Errorf("%+v passes for %d bytes", r, size)
			}
			if r.Writes() && !writable || r.Command == CmdWrite && r.Length > MaxBlock {
				t.Errorf("%+v passes, writable %v", r, writable)
			}
		}
	})
}

func FuzzReplies(f *testing.F) {
	f.Add(AppendStatus(nil, 1, 2, []Status{{4096, 3}}, true)[ChunkHeaderSize:])
	f.Add([]byte{0, 0, 0, 5, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		if id, runs, err := ParseStatus(data, 1<<30); err == nil {
			if got := AppendStatus(nil, 0, id, runs, true)[ChunkHeaderSize:]; !bytes.Equal(got, data) {
				t.Errorf("%x: encoded again as %x", data, got)
			}
		}
		if e, _, err := ParseError(ChunkErrorOffset, data); err == nil && e == 0 {
			t.Errorf("%x: error number 0 accepted", data)
		}
		_, _, _ = ParseServer(data)
		_, _, _ = ParseMetaContext(data)
	})
}

func TestCheck(t *testing.T) {
	const size = 1 << 20
	for _, c := range []struct {
		name string
		r    Request
		want Errno
	}{
		{"read all", Request{Length: size}, 0},
		{"read with FUA", Request{Flags: CmdFlagFUA, Length: 1}, 0},
		{"read without fragments", Request{Flags: CmdFlagDF, Length: 1}, 0},
		{"read nothing", Request{}, EINVAL},
		{"read over the end", Request{Offset: size - 1, Length: 2}, EINVAL},
		{"read past the end", Request{Offset: size, Length: 1}, EINVAL},
		{"read with overflow", Request{Offset: 1<<64 - 1, Length: 2}, EINVAL},
		{"read with a write's flag", Request{Flags: CmdFlagNoHole, Length: 1}, EINVAL},
		{"status of one run", Request{Command: CmdBlockStatus, Flags: CmdFlagReqOne, Length: 1}, 0},
		{"status with DF", Request{Command: CmdBlockStatus, Flags: CmdFlagDF, Length: 1}, EINVAL},
		{"cache", Request{Command: CmdCache, Length: size}, 0},
		{"flush", Request{Command: CmdFlush}, 0},
		{"flush with DF", Request{Command: CmdFlush, Flags: CmdFlagDF}, EINVAL},
		{"write", Request{Command: CmdWrite, Length: 1}, EPERM},
		{"trim past the end", Request{Command: CmdTrim, Offset: size, Length: 1}, EPERM},
		{"write zeroes", Request{Command: CmdWriteZeroes, Flags: CmdFlagFastZero, Length: 1}, EPERM},
		{"unknown command", Request{Command: 99, Length: 1}, EINVAL},
	} {
		if got := c.r.Check(size, false); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
	for _, c := range []struct {
		name string
		r    Request
		want Errno
	}{
		{"write all", Request{Command: CmdWrite, Length: size}, 0},
		{"write with FUA", Request{Command: CmdWrite, Flags: CmdFlagFUA, Length: 1}, 0},
		{"write nothing", Request{Command: CmdWrite}, EINVAL},
		{"write with DF", Request{Command: CmdWrite, Flags: CmdFlagDF, Length: 1}, EINVAL},
		{"write over the end", Request{Command: CmdWrite, Offset: size - 1, Length: 2}, ENOSPC},
		{"write with overflow", Request{Command: CmdWrite, Offset: 1<<64 - 1, Length: 2}, ENOSPC},
		{"trim", Request{Command: CmdTrim, Flags: CmdFlagFUA, Length: size}, 0},
		{"trim over the end", Request{Command: CmdTrim, Offset: 1, Length: size}, EINVAL},
		{"trim without a hole", Request{Command: CmdTrim, Flags: CmdFlagNoHole, Length: 1}, EINVAL},
		{"write zeroes", Request{Command: CmdWriteZeroes, Flags: CmdFlagFUA | CmdFlagNoHole, Length: size}, 0},
		{"write zeroes over the end", Request{Command: CmdWriteZeroes, Offset: 1, Length: size}, ENOSPC},
		{"write zeroes, or fail at once", Request{Command: CmdWriteZeroes, Flags: CmdFlagFastZero, Length: 1}, EINVAL},
		{"read over the end", Request{Offset: 1, Length: size}, EINVAL},
	} {
		if got := c.r.Check(size, true); got != c.want {
			t.Errorf("%s, if it may: %d, want %d", c.name, got, c.want)
		}
	}
	if got := (Request{Command: CmdWrite, Length: MaxBlock + 1}).Check(1<<40, true); got != EINVAL {
		t.Errorf("write of more than the largest block: %d, want EINVAL", got)
	}
	if got := (Request{Length: MaxBlock + 1}).Check(1<<40, false); got != EINVAL {
		t.Errorf("read of more than the largest block: %d, want EINVAL", got)
	}
	if got := (Request{Flags: CmdFlagDF, Length: MaxBlock + 1}).Check(1<<40, false); got != EOVERFLOW {
		t.Errorf("the same in one chunk: %d, want EOVERFLOW", got)
	}
}

func TestHeaders(t *testing.T) {
	flags, err := ParseGreeting(AppendGreeting(nil, FlagFixedNewstyle))
	if err != nil || flags != FlagFixedNewstyle {
		t.Errorf("greeting: %#x, %v", flags, err)
	}
	o, err := ParseOptionHeader(AppendOption(nil, OptGo, []byte("12345"))[:OptionHeaderSize])
	if err != nil || o != (OptionHeader{OptGo, 5}) {
		t.Errorf("option: %+v, %v", o, err)
	}
	r, err := ParseReplyHeader(AppendReply(nil, OptGo, RepErrPolicy, []byte("no"))[:OptionReplyHeaderSize])
	if err != nil || r != (ReplyHeader{OptGo, RepErrPolicy, 2}) || !r.Type.IsError() {
		t.Errorf("reply: %+v, %v", r, err)
	}
	e, err := ParseInfoExport(AppendInfoExport(nil, ExportInfo{1 << 40, FlagReadOnly}))
	if err != nil || e != (ExportInfo{1 << 40, FlagReadOnly}) {
		t.Errorf("export: %+v, %v", e, err)
	}
	b, err := ParseInfoBlockSize(AppendInfoBlockSize(nil, BlockSize{1, 4096, MaxBlock}))
	if err != nil || b != (BlockSize{1, 4096, MaxBlock}) {
		t.Errorf("block size: %+v, %v", b, err)
	}
	if _, err := ParseRequest(make([]byte, RequestSize)); !errors.Is(err, ErrMagic) {
		t.Errorf("request of zeros: %v, want ErrMagic", err)
	}
	var chunk [DataPrefixSize]byte
	PutData(chunk[:], 9, 512, 4096, true)
	h, err := ParseChunkHeader(chunk[:ChunkHeaderSize])
	if err != nil || h != (ChunkHeader{ChunkFlagDone, ChunkData, 9, 4104}) {
		t.Errorf("chunk: %+v, %v", h, err)
	}
}
