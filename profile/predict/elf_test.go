package predict

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"slices"
	"testing"
	"testing/fstest"
)

// An elfSpec is what a test's ELF file says.
type elfSpec struct {
	narrow  bool // 32 bits
	big     bool // big-endian
	interp  string
	needed  []string
	runpath string
	strings []string // constants
	written bool     // which can be written
	symbols []string // that it has from libraries
	begins  bool     // it runs code when it is loaded
	chooses bool     // its functions, too
	pad     int      // bytes of code
	data    []byte   // before the constants
}

// bytes returns the file: a segment of headers and tables, one of code, and one of constants.
func (e *elfSpec) bytes() []byte {
	var order binary.AppendByteOrder = binary.LittleEndian
	if e.big {
		order = binary.BigEndian
	}
	const base = 0x10000
	head, entry := 64, 56
	if e.narrow {
		head, entry = 52, 32
	}
	word := func(b []byte, v int) []byte {
		if e.narrow {
			return order.AppendUint32(b, uint32(v))
		}
		return order.AppendUint64(b, uint64(v))
	}
	symbols, info := make([]byte, 24), 4 // one
	if e.narrow {
		symbols, info = symbols[:16], 12
	}
	if e.chooses {
		symbols[info] = byte(elf.STT_GNU_IFUNC)
	}
	tables := head + 5*entry + len(symbols)
	names := []byte{0}
	at := func(s string) int {
		i := len(names)
		names = append(append(names, s...), 0)
		return i
	}
	var dyn []byte
	dynamic := func(tag elf.DynTag, v int) { dyn = word(word(dyn, int(tag)), v) }
	for _, n := range e.needed {
		dynamic(elf.DT_NEEDED, at(n))
	}
	if e.runpath != "" {
		dynamic(elf.DT_RUNPATH, at(e.runpath))
	}
	interp := at(e.interp)
	for _, n := range e.symbols {
		at(n)
	}
	dynamic(elf.DT_SYMTAB, base+tables-len(symbols))
	dynamic(elf.DT_STRTAB, base+tables)
	if e.begins {
		dynamic(elf.DT_INIT_ARRAYSZ, 16)
	}
	dynamic(elf.DT_STRSZ, len(names))
	dynamic(elf.DT_NULL, 0)
	dynAt := tables + len(names)
	code := dynAt + len(dyn)
	constants := slices.Clone(e.data)
	for _, s := range e.strings {
		constants = append(append(constants, s...), 0)
	}
	var b []byte
	class, data := elf.ELFCLASS64, elf.ELFDATA2LSB
	if e.narrow {
		class = elf.ELFCLASS32
	}
	if e.big {
		data = elf.ELFDATA2MSB
	}
	b = append(b, elf.ELFMAG...)
	b = append(b, byte(class), byte(data), 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	b = order.AppendUint16(b, uint16(elf.ET_DYN))
	b = order.AppendUint16(b, uint16(elf.EM_X86_64))
	b = order.AppendUint32(b, 1)
	b = word(word(word(b, 0), head), 0) // entry, program headers, sections
	b = order.AppendUint32(b, 0)
	for _, v := range []int{head, entry, 5, 0, 0, 0} {
		b = order.AppendUint16(b, uint16(v))
	}
	segment := func(kind elf.ProgType, flags elf.ProgFlag, off, size int) {
		b = order.AppendUint32(b, uint32(kind))
		if !e.narrow {
			b = order.AppendUint32(b, uint32(flags))
		}
		b = word(word(word(b, off), base+off), base+off)
		b = word(word(b, size), size)
		if e.narrow {
			b = order.AppendUint32(b, uint32(flags))
		}
		b = word(b, 1)
	}
	segment(elf.PT_LOAD, elf.PF_R, 0, code)
	segment(elf.PT_LOAD, elf.PF_R|elf.PF_X, code, e.pad)
	flags := elf.PF_R
	if e.written {
		flags |= elf.PF_W
	}
	segment(elf.PT_LOAD, flags, code+e.pad, len(constants))
	segment(elf.PT_DYNAMIC, elf.PF_R, dynAt, len(dyn))
	if e.interp == "" {
		segment(elf.PT_NULL, 0, 0, 0)
	} else {
		segment(elf.PT_INTERP, elf.PF_R, tables+interp, len(e.interp)+1)
	}
	b = append(append(append(b, symbols...), names...), dyn...)
	b = append(b, make([]byte, e.pad)...)
	return append(b, constants...)
}

func TestParseELF(t *testing.T) {
	for _, narrow := range []bool{false, true} {
		for _, big := range []bool{false, true} {
			e := elfSpec{narrow: narrow, big: big, interp: "/lib/ld.so", needed: []string{"libc.so.6", "libm.so"}, runpath: "$ORIGIN/../lib:/opt/lib:relative", chooses: narrow != big, pad: 100}
			b := e.bytes()
			tr := newTree(context.Background(), fstest.MapFS{"opt/bin/x": {Data: append(b, "symbols"...), Mode: 0o755}})
			o := parseELF(tr.file("/opt/bin/x"))
			if o == nil || o.interp != e.interp || !slices.Equal(o.needed, e.needed) || !slices.Equal(o.runpath, []string{"/opt/bin/../lib", "/opt/lib"}) {
				t.Errorf("narrow %v, big %v: %+v", narrow, big, o)
			} else if o.loaded() != int64(len(b)) {
				t.Errorf("narrow %v, big %v: %d bytes are loaded, want %d", narrow, big, o.loaded(), len(b))
			} else if o.chooses() != e.chooses {
				t.Errorf("narrow %v, big %v: chooses functions: %v", narrow, big, o.chooses())
			}
		}
	}
}

// TestDamagedELF: no byte of a file that is another one, and no cut, leads astray.
func TestDamagedELF(t *testing.T) {
	e := elfSpec{interp: "/lib/ld.so", needed: []string{"libc.so.6"}, runpath: "/opt/lib", strings: []string{"/etc/x.conf"}}
	good := e.bytes()
	try := func(b []byte) {
		tr := newTree(context.Background(), fstest.MapFS{"x": {Data: b, Mode: 0o755}})
		if o := parseELF(tr.file("x")); o != nil && (o.loaded() > o.size || o.loaded() < 0) {
			t.Errorf("%d bytes are loaded of %d: %x", o.loaded(), o.size, b)
		} else if o != nil {
			o.chooses()
		}
		if tr.err != nil {
			t.Errorf("%v: %x", tr.err, b)
		}
	}
	for n := range good {
		try(good[:n])
		for _, v := range []byte{0, 1, 0x7f, 0x80, 0xff} {
			b := bytes.Clone(good)
			b[n] = v
			try(b)
		}
	}
}
