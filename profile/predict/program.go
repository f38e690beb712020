package predict

import (
	"bytes"
	"cmp"
	"path"
	"slices"
	"strings"
)

// How much of an object is read. Its pages come with faults, and the kernel reads around
// each of these: of a small one, all is read.
const (
	wholeObject  = 6 << 20  // of a library that is read whole
	wholeProgram = 16 << 20 // of a program
	wholeBody    = 48 << 20 // of a library that a program is a mere entrance to
	bodyFrom     = 8        // times the program's size
	objectHead   = 64 << 10
	maxStrings   = 8 << 20 // of a program that is looked through for names
)

// program follows an ELF file that is executed.
func (p *predictor) program(f *file, depth int) {
	o := parseELF(f)
	if o == nil {
		if f.size <= wholeObject {
			p.addWhole(f)
		}
		return
	}
	p.add(f, 0, objectHead) // what the kernel reads
	if o.interp != "" {
		if ld := p.file(o.interp); ld != nil {
			p.object(parseELF(ld), wholeObject)
		}
		if cache := p.file("etc/ld.so.cache"); cache != nil && cache.size <= wholeObject {
			p.addWhole(cache)
		}
	}
	bodies := p.bodies(o)
	p.libraries(o)
	p.object(o, wholeProgram)
	if !p.once && o.interp != "" {
		p.once = true
		p.everybody()
	}
	p.beginning(languageOf(f.path), f)
	for _, b := range append(bodies, o) {
		p.strings(b, depth)
	}
}

// bodies adds the large libraries that a small program is linked with itself: they are the
// program, in truth.
func (p *predictor) bodies(o *object) []*object {
	var list []*object
	for _, name := range o.needed {
		f := p.findLibrary(name, o.runpath)
		if f == nil || p.linked[f.path] || f.size <= wholeObject || f.size < bodyFrom*o.size {
			continue
		}
		if b := parseELF(f); b != nil {
			p.object(b, wholeBody)
			p.libraries(b)
			list = append(list, b)
		}
	}
	return list
}

// everybody adds what any process may read: who the users are, and its locale.
func (p *predictor) everybody() {
	list := []string{"etc/nsswitch.conf", "etc/passwd", "etc/group"}
	locale := cmp.Or(p.env["LC_ALL"], p.env["LC_CTYPE"], p.env["LANG"])
	if name, charset, _ := strings.Cut(locale, "."); name != "" && locale != "C" && locale != "POSIX" {
		charset = strings.ReplaceAll(strings.ToLower(charset), "-", "")
		dir := path.Join("usr/lib/locale", path.Base(name+"."+charset))
		for _, n := range p.list(dir) {
			list = append(list, path.Join(dir, n))
		}
		list = append(list, path.Join(dir, "LC_MESSAGES/SYS_LC_MESSAGES"))
		for _, d := range p.libraryDirs() {
			list = append(list, path.Join(d, "gconv/gconv-modules.cache"))
		}
	}
	for _, name := range list {
		if f := p.file(name); f != nil && f.size <= wholeObject {
			p.addWhole(f)
		}
	}
}

// library follows a library that is loaded into a process, with what it needs.
func (p *predictor) library(f *file) {
	if o := parseELF(f); o != nil && !p.linked[f.path] {
		p.object(o, wholeObject)
		p.libraries(o)
	}
}

// libraries follows what an object needs, breadth first, as loaders do.
func (p *predictor) libraries(o *object) {
	queue := []*object{o}
	for len(queue) > 0 {
		o, queue = queue[0], queue[1:]
		var found []*file
		for _, name := range o.needed {
			if f := p.findLibrary(name, o.runpath); f != nil && !p.linked[f.path] {
				found = append(found, f)
				p.soon(f)
			}
		}
		for _, f := range found {
			if p.linked[f.path] {
				continue
			}
			if l := parseELF(f); l != nil {
				p.object(l, wholeObject)
				queue = append(queue, l)
			}
		}
	}
}

func (p *predictor) findLibrary(name string, runpath []string) *file {
	if strings.Contains(name, "/") {
		return p.file(name)
	}
	for _, dirs := range [][]string{runpath, p.libraryDirs()} {
		for _, d := range dirs {
			if f := p.file(path.Join(d, name)); f != nil {
				return f
			}
		}
	}
	return nil
}

// object adds what is read of a program or library that is loaded: all of it, if that is
// at most whole bytes.
func (p *predictor) object(o *object, whole int64) {
	if o == nil || p.linked[o.path] || len(p.linked) >= 1<<12 {
		return
	}
	p.linked[o.path] = true
	end := o.loaded()
	if end <= whole {
		p.add(o.file, 0, end)
		return
	}
	p.add(o.file, 0, objectHead)
	for _, s := range o.segments {
		switch {
		case s.write:
			p.add(o.file, s.off, s.size)
		case s.off == 0 && !s.exec:
			p.add(o.file, 0, s.size)
		}
	}
}

// strings looks through the constants of a program for what it will read: files by
// absolute paths; files by their names in folders that it names too; and the programs
// of its own folder, if that is no common one.
func (p *predictor) strings(o *object, depth int) {
	names := make(map[string]bool)
	var dirs []string
	left := int64(maxStrings)
	for i, s := range o.segments {
		if s.write || s.exec && len(o.segments) > 2 || i == 0 && len(o.segments) > 2 {
			continue
		}
		b := o.bytes(s.off, min(s.size, left))
		left -= int64(len(b))
		for len(b) > 0 {
			word, rest, _ := bytes.Cut(b, []byte{0})
			if b = rest; len(word) < 4 || len(word) > 256 || bytes.ContainsFunc(word, func(r rune) bool { return r <= ' ' || r > '~' }) {
				continue
			}
			switch w := string(word); {
			case w[0] != '/':
				if len(names) < 1<<14 {
					names[w[strings.LastIndexByte(w, '/')+1:]] = true
				}
			case p.dir(w) != "":
				if d := p.dir(w); len(dirs) < 64 && !slices.Contains(dirs, d) {
					dirs = append(dirs, d)
				}
			default:
				if f := p.file(w); f != nil && f.mode&0o111 == 0 {
					p.mentioned(f, "", depth+1)
				}
			}
		}
	}
	own := path.Dir(o.path)
	if !slices.ContainsFunc(p.path, func(d string) bool { return p.dir(d) == own }) && own != "." {
		for _, name := range p.list(own) {
			if names[name] {
				if f := p.executable(path.Join(own, name)); f != nil {
					p.run(f, depth+1)
				}
			}
		}
	}
	p.plugins = append(p.plugins, dirs...)
	for _, d := range dirs {
		if strings.HasSuffix(d, ".d") { // all that is in it is read
			for _, name := range p.list(d) {
				if f := p.file(path.Join(d, name)); f != nil && f.size <= maxText {
					p.mentioned(f, "", depth+1)
				}
			}
		}
		if d == own || strings.Count(d, "/") < 2 { // etc, usr/bin and the like are everybody's
			continue
		}
		for _, name := range p.list(d) {
			if names[name] {
				if f := p.file(path.Join(d, name)); f != nil && f.size <= wholeObject {
					p.mentioned(f, "", depth+1)
				}
			}
		}
	}
}
