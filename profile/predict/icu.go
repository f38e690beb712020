package predict

import (
	"slices"
	"strings"
)

// Bounds of what is believed of ICU's data.
const (
	maxItems     = 1 << 16
	maxItemNames = 4 << 20 // bytes of their table
)

// icuLanguages is what programs read of ICU's data that know all its languages: how each is sorted,
// and its name in English, with what these refer to. What ends with a stroke is all items of a folder.
var icuLanguages = []string{
	"res_index.res", "coll/", "lang/en.res", "lang/pool.res", "lang/root.res",
	"region/en.res", "region/pool.res", "region/root.res", "keyTypeData.res", "timezoneTypes.res",
}

// languages adds what o reads of ICU's data if it asks for all languages and opens their
// collations, as databases do. Programs that know one language read other parts, and little.
func (p *predictor) languages(o *object) {
	for _, library := range o.needed {
		version, ok := strings.CutPrefix(library, "libicui18n.so.")
		if !ok || !o.imports("ucol_open_"+version) || !o.imports("uloc_getAvailable_"+version) {
			continue
		}
		f := p.findLibrary("libicudata.so."+version, o.runpath)
		if f == nil {
			return
		}
		data := parseICU(parseELF(f))
		if len(data) == 0 {
			return
		}
		p.add(f, 0, data[0].off) // the table, which is searched
		for _, part := range icuLanguages {
			p.icuPart(f, data, part)
		}
	}
}

// icuPart adds an item of f, or those of a folder, which lie together, with what the kernel reads
// around the first of them.
func (p *predictor) icuPart(f *file, items []icuItem, part string) {
	is := func(i icuItem) bool {
		return i.name == part || strings.HasSuffix(part, "/") && strings.HasPrefix(i.name, part)
	}
	first := slices.IndexFunc(items, is)
	if first < 0 {
		return
	}
	from, to := items[first].off, items[first].off
	for _, i := range items[first:] {
		if !is(i) {
			break
		}
		to = i.off + i.size
	}
	start := max(0, from-aroundFault)
	p.add(f, start, max(to, from+aroundFault)-start)
}

// An icuItem is a part of ICU's data.
type icuItem struct {
	name      string // without the package's
	off, size int64  // in the file
}

// parseICU returns the items of the package of ICU's data that a library has, as they lie in it; none
// of one that makes no sense.
func parseICU(o *object) []icuItem {
	if o == nil {
		return nil
	}
	for _, s := range o.segments {
		if s.write || s.exec {
			continue
		}
		head := o.bytes(s.off, min(s.size, objectHead))
		for at := 0; at+16 <= len(head); at += 16 {
			if h := head[at:]; h[2] == 0xda && h[3] == 0x27 && string(h[12:16]) == "CmnD" {
				begin := int64(at) + int64(o.order.Uint16(h))
				return o.icuItems(s.off+begin, s.size-begin)
			}
		}
	}
	return nil
}

// icuItems reads the table of a package, which is size bytes at off: how many items there are, where
// the name of each and itself begin, from off on, and then the names.
func (o *object) icuItems(off, size int64) []icuItem {
	b := o.bytes(off, 4)
	if len(b) < 4 {
		return nil
	}
	n := int64(o.order.Uint32(b))
	if n == 0 || n > maxItems {
		return nil
	}
	entries := o.bytes(off+4, n*8)
	if int64(len(entries)) < n*8 {
		return nil
	}
	begin, end := 4+n*8, int64(o.order.Uint32(entries[4:])) // of the names
	names := o.bytes(off+begin, min(end-begin, maxItemNames))
	items := make([]icuItem, n)
	next := size
	for i := n - 1; i >= 0; i-- {
		name, data := int64(o.order.Uint32(entries[i*8:]))-begin, int64(o.order.Uint32(entries[i*8+4:]))
		if name < 0 || name >= int64(len(names)) || data < end || data > next {
			return nil
		}
		_, item, _ := strings.Cut(cString(names[name:min(name+maxName, int64(len(names)))]), "/")
		items[i] = icuItem{item, off + data, next - data}
		next = data
	}
	return items
}
