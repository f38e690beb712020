package predict

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"path"
	"slices"
	"strings"
)

const elfMagic = elf.ELFMAG

// Bounds of what is believed of an ELF file.
const (
	maxSegments = 64
	maxDynamic  = 1 << 12 // entries
	maxNeeded   = 512     // libraries of one object
	maxName     = 1 << 10 // bytes of a name
	maxAllNames = 1 << 20 // of all names
	maxSymbols  = 1 << 20 // of the table of symbols
)

// An object is an ELF program or library.
type object struct {
	*file
	order    binary.ByteOrder
	wide     bool // 64 bits
	segments []segment
	interp   string
	needed   []string
	runpath  []string // where it looks for them

	begins     bool    // it runs code of its own when it is loaded
	table      int64   // where that of what loaders look up begins
	deep       bool    // only libraries need it: no more of it runs than what begins
	lends      bool    // it is an interpreter or needed by one: it has what programs may ask for
	exceptions int64   // where the tables for exceptions begin; 0: there are none
	symbols    int64   // where their table begins; -1: there is none
	names      segment // of symbols and libraries, one behind the other
}

// A segment is what a loader maps.
type segment struct {
	off, size   int64 // in the file
	addr        uint64
	write, exec bool
}

// parseELF reads what a loader reads of an ELF file; nil: it is none that makes sense.
// Sections are left alone: a loader does without, and so do stripped files.
func parseELF(f *file) *object {
	head := f.bytes(0, 64)
	if len(head) < 52 || string(head[:4]) != elfMagic {
		return nil
	}
	o := &object{file: f, symbols: -1, order: binary.LittleEndian, wide: elf.Class(head[elf.EI_CLASS]) == elf.ELFCLASS64}
	if elf.Data(head[elf.EI_DATA]) == elf.ELFDATA2MSB {
		o.order = binary.BigEndian
	}
	var off int64
	var size, n int
	if o.wide {
		if len(head) < 64 {
			return nil
		}
		off, size, n = int64(o.order.Uint64(head[32:])), int(o.order.Uint16(head[54:])), int(o.order.Uint16(head[56:]))
	} else {
		off, size, n = int64(o.order.Uint32(head[28:])), int(o.order.Uint16(head[42:])), int(o.order.Uint16(head[44:]))
	}
	if n == 0 || n > maxSegments || size < o.pick(32, 56) || size > 256 {
		return nil
	}
	table := f.bytes(off, int64(n*size))
	var dynamic segment
	for ; len(table) >= size; table = table[size:] {
		kind, s := o.segment(table)
		if s.off < 0 || s.size < 0 || s.off > f.size {
			return nil
		}
		s.size = min(s.size, f.size-s.off)
		switch kind {
		case elf.PT_LOAD:
			o.segments = append(o.segments, s)
		case elf.PT_GNU_EH_FRAME:
			o.exceptions = s.off
		case elf.PT_INTERP:
			o.interp = cString(f.bytes(s.off, min(s.size, maxName)))
		case elf.PT_DYNAMIC:
			dynamic, o.table = s, s.off
		}
	}
	o.dynamic(dynamic)
	return o
}

func (o *object) pick(narrow, wide int) int {
	if o.wide {
		return wide
	}
	return narrow
}

func (o *object) segment(b []byte) (elf.ProgType, segment) {
	kind := elf.ProgType(o.order.Uint32(b))
	var flags elf.ProgFlag
	var s segment
	if o.wide {
		flags = elf.ProgFlag(o.order.Uint32(b[4:]))
		s.off, s.addr, s.size = int64(o.order.Uint64(b[8:])), o.order.Uint64(b[16:]), int64(o.order.Uint64(b[32:]))
	} else {
		flags = elf.ProgFlag(o.order.Uint32(b[24:]))
		s.off, s.addr, s.size = int64(o.order.Uint32(b[4:])), uint64(o.order.Uint32(b[8:])), int64(o.order.Uint32(b[16:]))
	}
	s.write, s.exec = flags&elf.PF_W != 0, flags&elf.PF_X != 0
	return kind, s
}

// dynamic reads which libraries an object needs, and where it looks for them.
func (o *object) dynamic(s segment) {
	size := o.pick(8, 16)
	table := o.bytes(s.off, min(s.size, int64(maxDynamic*size)))
	var needed, paths []uint64
	names, length := int64(-1), int64(0)
	for ; len(table) >= size; table = table[size:] {
		var tag elf.DynTag
		var value uint64
		if o.wide {
			tag, value = elf.DynTag(o.order.Uint64(table)), o.order.Uint64(table[8:])
		} else {
			tag, value = elf.DynTag(o.order.Uint32(table)), uint64(o.order.Uint32(table[4:]))
		}
		if tag == elf.DT_NULL {
			break
		}
		switch {
		case tag == elf.DT_NEEDED && len(needed) < maxNeeded:
			needed = append(needed, value)
		case tag == elf.DT_RPATH, tag == elf.DT_RUNPATH:
			paths = append(paths[:0], value)
		case tag == elf.DT_STRTAB:
			names = o.fileOffset(value)
		case tag == elf.DT_SYMTAB:
			o.symbols = o.fileOffset(value)
		case tag == elf.DT_INIT_ARRAYSZ:
			o.begins = value > uint64(o.pick(4, 8)) // compilers put one function into all
		case tag == elf.DT_STRSZ:
			length = int64(min(value, maxAllNames))
		}
	}
	if names < 0 {
		return
	}
	o.names = segment{off: names, size: max(0, min(length, o.size-names))}
	name := func(at uint64) string {
		if at > uint64(o.size) {
			return ""
		}
		from := names + int64(at)
		return cString(o.bytes(from, min(maxName, o.size-from)))
	}
	for _, at := range needed {
		if n := name(at); n != "" {
			o.needed = append(o.needed, n)
		}
	}
	for _, at := range paths {
		for d := range strings.SplitSeq(name(at), ":") {
			d = strings.NewReplacer("$ORIGIN", path.Dir("/"+o.path), "${ORIGIN}", path.Dir("/"+o.path)).Replace(d)
			if path.IsAbs(d) {
				o.runpath = append(o.runpath, d)
			}
		}
	}
}

// imports reports whether an object has one of the symbols from a library, or for others.
func (o *object) imports(symbols ...string) bool {
	b := o.bytes(o.names.off, o.names.size)
	return slices.ContainsFunc(symbols, func(name string) bool { return bytes.Contains(b, []byte("\x00"+name+"\x00")) })
}

// chooses reports whether an object has functions that it chooses when it is loaded, by code of
// its own. Linkers put the names right behind the table of symbols, which has no length.
func (o *object) chooses() bool {
	size, info := o.pick(16, 24), o.pick(12, 4)
	for b := o.bytes(o.symbols, min(o.names.off-o.symbols, maxSymbols)); len(b) >= size; b = b[size:] {
		if elf.ST_TYPE(b[info]) == elf.STT_GNU_IFUNC {
			return true
		}
	}
	return false
}

// fileOffset returns where an address lies in the file; -1: nowhere.
func (o *object) fileOffset(addr uint64) int64 {
	for _, s := range o.segments {
		if addr >= s.addr && addr-s.addr < uint64(s.size) {
			return s.off + int64(addr-s.addr)
		}
	}
	return -1
}

// loaded returns how far into the file its segments reach: behind lies what only
// debuggers read.
func (o *object) loaded() int64 {
	end := int64(0)
	for _, s := range o.segments {
		end = max(end, s.off+s.size)
	}
	return end
}

// cString returns b up to its first zero; "" if there is none.
func cString(b []byte) string {
	i := bytes.IndexByte(b, 0)
	if i < 0 {
		return ""
	}
	return string(b[:i])
}
