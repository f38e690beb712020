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
	wholeObject  = 6 << 20   // of a library that is read whole
	maxIdle      = 2 << 20   // of one that waits until it is called
	wholeProgram = 32 << 20  // of a program, whose loader relocates it
	wholeStatic  = 16 << 20  // of one that needs no loader
	wholeBody    = 48 << 20  // of a library that a program is a mere entrance to
	bodyFrom     = 8         // times the program's size
	wholeAnyway  = 256 << 10 // of any object
	objectHead   = 64 << 10
	maxCode      = 15 << 20  // of one object
	beginOfCode  = 192 << 10 // which the kernel reads with what a loader starts there, code or not
	aroundFault  = 64 << 10  // that it reads before a fault, and behind it
	maxConstants = 4 << 20   // of an interpreter that are looked through for tables
	maxTable     = 256 << 10 // of a table that is read whole
	leastString  = 8         // that ends a table: shorter ones are there by accident
	maxLinked    = 1 << 12   // objects
	maxStrings   = 8 << 20   // of a program that is looked through for names
)

// A linkage is how far a program or library was followed; it only rises.
type linkage uint8

const (
	unlinked linkage = iota
	loaded           // what a loader reads was added
	used             // and what is read of code that is used
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
	language := languageOf(f.path)
	o.lends = language != "" && language != shell
	p.add(f, 0, objectHead) // what the kernel reads
	if o.interp != "" {
		if ld := p.file(o.interp); ld != nil {
			p.object(parseELF(ld), wholeObject)
		}
		if cache := p.file("etc/ld.so.cache"); cache != nil && cache.size <= wholeObject {
			p.addWhole(cache)
		}
	}
	home := rHome(f)
	if home != "" {
		o.runpath = append(o.runpath, home+"/lib") // as the script that runs it tells the loader
	}
	bodies := p.libraries(o)
	if o.interp == "" {
		p.object(o, wholeStatic)
	} else {
		p.object(o, wholeProgram)
	}
	for _, b := range bodies {
		p.rest(b)
	}
	if !p.once && o.interp != "" {
		p.once = true
		p.locale()
	}
	if language == "" || strings.HasPrefix(path.Base(f.path), "bash") { // other interpreters ask if programs want to know
		p.users(o)
	}
	p.beginning(language, f)
	if home != "" {
		p.rBegins(home)
	}
	if language == shell { // what it names is for who types
		return
	}
	for _, b := range append(bodies, o) {
		p.strings(b, depth)
	}
	p.languages(o)
}

// users adds what is read by a program that asks who the users are.
func (p *predictor) users(o *object) {
	if !p.knowsUsers && o.imports("getpwuid", "getpwnam", "getpwent", "getpwuid_r", "getpwnam_r") {
		p.knowsUsers = true
		p.wholes("etc/nsswitch.conf", "etc/passwd")
	}
	if !p.knowsGroups && o.imports("getgrgid", "getgrnam", "getgrent", "getgrgid_r", "getgrnam_r", "initgroups") {
		p.knowsGroups = true
		p.wholes("etc/nsswitch.conf", "etc/group")
	}
}

// locale adds what any process reads of its locale.
func (p *predictor) locale() {
	locale := cmp.Or(p.env["LC_ALL"], p.env["LC_CTYPE"], p.env["LANG"])
	if name, charset, _ := strings.Cut(locale, "."); name != "" && locale != "C" && locale != "POSIX" {
		charset = strings.ReplaceAll(strings.ToLower(charset), "-", "")
		dir := path.Join("usr/lib/locale", path.Base(name+"."+charset))
		var list []string
		for _, n := range p.list(dir) {
			list = append(list, path.Join(dir, n))
		}
		list = append(list, path.Join(dir, "LC_MESSAGES/SYS_LC_MESSAGES"))
		for _, d := range p.libraryDirs() {
			list = append(list, path.Join(d, "gconv/gconv-modules.cache"))
		}
		p.wholes(list...)
	}
}

// wholes adds files that are there, unless they are large.
func (p *predictor) wholes(list ...string) {
	for _, name := range list {
		if f := p.file(name); f != nil && f.size <= wholeObject {
			p.addWhole(f)
		}
	}
}

// library follows a library that is loaded into a process, with what it needs.
func (p *predictor) library(f *file) {
	if p.linked[f.path] == used {
		return
	}
	if o := parseELF(f); o != nil {
		p.object(o, wholeObject)
		p.libraries(o)
	}
}

// plug follows a library that a text names: it has a configuration and constants of its own, as
// programs do.
func (p *predictor) plug(f *file, depth int) {
	if p.linked[f.path] == used {
		return
	}
	p.library(f)
	if o := parseELF(f); o != nil {
		p.strings(o, depth)
	}
}

// libraries follows what an object needs, breadth first, as loaders do. What only its libraries
// need is loaded, and hardly used: of it what loaders read is added, and if it runs code of
// its own when it is loaded, constants and half of the code too. So is what nothing but the object needs: it
// waits until it is called, unless it is large, runs such code, chooses functions when it is loaded, or
// an earlier program loaded it. It returns
// the large ones that a small program needs itself, of which only the beginning is added:
// they are the program, in truth, and what they need it needs.
func (p *predictor) libraries(root *object) (bodies []*object) {
	queue, own := []*object{root}, map[*object]bool{root: true}
	idle := make(map[string]bool) // of what is loaded, what the object needs, and no library so far
	for len(queue) > 0 {
		o := queue[0]
		queue = queue[1:]
		var found []*file
		for _, name := range o.needed {
			if f := p.findLibrary(name, o.runpath); f != nil && (p.linked[f.path] == unlinked || (own[o] || idle[f.path]) && p.linked[f.path] != used) {
				found = append(found, f)
				p.soon(f)
			}
		}
		for _, f := range found {
			before, again := p.linked[f.path], idle[f.path]
			if before == used || before == loaded && !own[o] && !again { // twice in one list
				continue
			}
			if l := parseELF(f); l != nil {
				l.deep, l.lends = !own[o] && !again, root.lends
				switch {
				case l.begins, again, own[o] && (before == loaded || l.loaded() > maxIdle || l.chooses()):
					p.object(l, wholeObject)
				default:
					p.object(l, 0)
					idle[f.path] = own[o]
				}
				if before == loaded {
					continue // and what it needs is
				}
				queue = append(queue, l)
				if end := l.loaded(); o == root && root.interp != "" && end > wholeObject && end <= wholeBody && f.size >= bodyFrom*root.size {
					bodies = append(bodies, l)
					own[l] = true
				}
			}
		}
	}
	return bodies
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

// object adds what is read of a program or library that is loaded: what loaders read, and
// the rest, if all is at most whole bytes.
func (p *predictor) object(o *object, whole int64) {
	if o == nil || len(p.linked) >= maxLinked {
		return
	}
	how := used
	if whole == 0 {
		how = loaded
	}
	if p.linked[o.path] >= how {
		return
	}
	p.linked[o.path] = how
	end := o.loaded()
	switch {
	case end <= wholeAnyway:
		p.add(o.file, 0, end)
		return
	case end > whole:
		p.add(o.file, 0, objectHead)
	}
	for _, s := range o.segments {
		switch {
		case s.write || s.off == 0 && !s.exec:
			p.add(o.file, s.off, s.size)
		case s.exec && end > whole:
			p.add(o.file, s.off, beginOfCode)
			p.add(o.file, s.off+s.size-1, 1) // what runs at the end lies there
		}
	}
	if end <= whole {
		p.rest(o)
		return
	}
	from := max(0, o.table-aroundFault) // the first of what is written that loaders look at
	p.add(o.file, from, o.table-from)
}

// rest adds the code and the constants of an object: not the tables for exceptions, which are
// the end of them, nor the end of very much code; and half of that, and its end, if the object only
// begins.
func (p *predictor) rest(o *object) {
	for _, s := range o.segments {
		switch {
		case s.write:
			continue
		case o.exceptions > s.off && o.exceptions+2*objectHead < s.off+s.size:
			p.add(o.file, s.off+s.size-objectHead, objectHead) // the kernel reads it with what is written, behind it
			s.size = o.exceptions - s.off + objectHead         // and reads on
		case s.exec && o.deep && s.size > 2*beginOfCode:
			p.add(o.file, s.off+s.size-beginOfCode, beginOfCode)
			s.size /= 2
		case s.exec:
			s.size = min(s.size, maxCode)
		}
		if o.lends && !s.exec && s.size > maxTable && s.size <= maxConstants {
			p.constants(o, s)
		} else {
			p.add(o.file, s.off, s.size)
		}
	}
}

// constants adds the constants of an interpreter or of a library of one, but for the inside of
// large tables, as of the names of characters or for mathematics: they wait for a program that
// asks. Such a table has no strings, and is dense: sparse ones, as of the classes of characters,
// are used by all, and cheap.
func (p *predictor) constants(o *object, s segment) {
	b := o.bytes(s.off, s.size)
	from, begin, zeros := 0, 0, 0 // of what is not added yet; of what may be a table, and in that
	text := 0                     // bytes since the last zero; -1: others are among them
	table := func(end int) {
		if end-begin > maxTable && zeros < (end-begin)/2 {
			p.add(o.file, s.off+int64(from), int64(begin+aroundFault-from))
			from = end - aroundFault
		}
	}
	for i, c := range b {
		switch {
		case c == 0:
			if text >= leastString {
				table(i - text)
				begin, zeros = i, 0
			}
			text = 0
			zeros++
		case text >= 0 && (c >= ' ' && c <= '~' || c == '\n' || c == '\t'):
			text++
		default:
			text = -1
		}
	}
	table(len(b))
	p.add(o.file, s.off+int64(from), s.size-int64(from))
}

// strings looks through the constants of a program for what it will read: files by
// absolute paths; files by their names in folders that it names too; the programs of its own
// folder, if that is no common one; and those below a folder that are named as %s/bin/program.
func (p *predictor) strings(o *object, depth int) {
	names := make(map[string]bool)
	var dirs, parts []string
	left := int64(maxStrings)
	for i, s := range o.segments {
		if s.exec && len(o.segments) > 2 || i == 0 && len(o.segments) > 2 {
			continue
		}
		b := o.bytes(s.off, min(s.size, left))
		left -= int64(len(b))
		for len(b) > 0 {
			word, rest, _ := bytes.Cut(b, []byte{0})
			if b = rest; len(word) < 4 || len(word) > 256 || bytes.ContainsFunc(word, func(r rune) bool { return r <= ' ' || r > '~' }) {
				continue
			}
			w := string(word)
			if part, ok := strings.CutPrefix(w, "%s/"); ok && len(parts) < 64 {
				parts = append(parts, part)
			}
			switch {
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
	for _, d := range dirs {
		for _, part := range parts {
			if f := p.executable(path.Join(d, part)); f != nil {
				p.run(f, depth+1)
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
