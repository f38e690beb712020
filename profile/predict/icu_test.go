package predict

import (
	"bytes"
	"context"
	"encoding/binary"
	"strings"
	"testing"
)

// icuPackage returns a package of ICU's data with these items of size bytes each, which begin with
// their names.
func icuPackage(size int, names ...string) []byte {
	order := binary.LittleEndian
	b := append(order.AppendUint16(nil, 32), "\xda\x27"...)
	b = append(b, make([]byte, 8)...)
	b = append(append(b, "CmnD"...), make([]byte, 16)...)
	table := order.AppendUint32(nil, uint32(len(names)))
	at := 4 + 8*len(names)
	end := at + len(strings.Join(names, "/data/")+"/data/")
	for i, n := range names {
		table = order.AppendUint32(order.AppendUint32(table, uint32(at)), uint32(end+i*size))
		at += len("data/" + n + "\x00")
	}
	for _, n := range names {
		table = append(table, "data/"+n+"\x00"...)
	}
	b = append(b, table...)
	for _, n := range names {
		item := make([]byte, size)
		copy(item, "item "+n)
		b = append(b, item...)
	}
	return b
}

// TestLanguages: of a program that opens the collations of all languages, these are predicted, and
// what tells which there are; of no other one.
func TestLanguages(t *testing.T) {
	const size = 3 * aroundFault
	names := []string{"brkitr/a.res", "coll/a.res", "coll/b.res", "curr/a.res", "curr/b.res", "res_index.res", "root.res", "zone/a.res"}
	data := (&elfSpec{pad: 4 * aroundFault, data: icuPackage(size, names...)}).bytes()
	files := func(data []byte, symbols ...string) spec {
		return base(spec{
			"usr/bin/db": string((&elfSpec{interp: "/lib64/ld.so", needed: []string{"libicui18n.so.72"}, symbols: symbols, pad: 10}).bytes()), "usr/lib/libicui18n.so.72": library("libicudata.so.72"),
			"usr/lib/libicudata.so.72": string(data),
		})
	}
	// read returns how many bytes of an item are predicted.
	read := func(s spec, item string) (n int64) {
		ranges, err := Reads(context.Background(), s.fs(), Start{Args: []string{"db"}})
		if err != nil {
			t.Fatal(err)
		}
		at := int64(bytes.Index(data, []byte("item "+item)))
		for _, r := range ranges {
			if r.Path == "usr/lib/libicudata.so.72" {
				n = max(n, min(r.Off+r.Length, at+size)-max(r.Off, at))
			}
		}
		return n
	}
	all := files(data, "ucol_open_72", "uloc_getAvailable_72")
	for item, want := range map[string]int64{
		"brkitr/a.res": aroundFault, "coll/a.res": size, "coll/b.res": size, "curr/b.res": aroundFault, "res_index.res": size, "root.res": 0,
	} {
		if got := read(all, item); got != want {
			t.Errorf("%s: %d bytes are predicted, want %d", item, got, want)
		}
	}
	if got := read(files(data, "ucol_open_72"), "coll/b.res"); got != 0 {
		t.Errorf("a program that knows one language: %d bytes are predicted", got)
	}
}

// TestDamagedICU: no byte of a package that is another one leads out of the file.
func TestDamagedICU(t *testing.T) {
	good := (&elfSpec{data: icuPackage(16, "coll/a.res", "res_index.res", "root.res")}).bytes()
	for i := range good {
		for _, v := range []byte{0, 1, 0x7f, 0xff} {
			b := bytes.Clone(good)
			b[i] = v
			tr := newTree(context.Background(), spec{"x": string(b)}.fs())
			for _, item := range parseICU(parseELF(tr.file("x"))) {
				if item.off < 0 || item.size < 0 || item.off+item.size > int64(len(b)) {
					t.Errorf("byte %d is %#x: %+v of %d bytes", i, v, item, len(b))
				}
			}
		}
	}
	tr := newTree(context.Background(), spec{"x": string(good)}.fs())
	if items := parseICU(parseELF(tr.file("x"))); len(items) != 3 || items[1].name != "res_index.res" || items[1].size != 16 {
		t.Errorf("%+v", items)
	}
}
