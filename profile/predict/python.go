package predict

import (
	"encoding/binary"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// pythonStart are modules that the interpreter itself imports, whatever it runs, beside those
// that it has in itself.
var pythonStart = []string{"encodings", "encodings.aliases", "encodings.utf_8", "sitecustomize", "usercustomize"}

// pythonFrozen are modules of the standard library that it imports too, and that CPython has
// in itself since version 3.11.
var pythonFrozen = []string{
	"abc", "codecs", "io", "_collections_abc", "stat", "genericpath", "posixpath", "os", "os.path", "_sitebuiltins", "site", "importlib", "importlib.util",
	"importlib.machinery", "importlib._bootstrap", "importlib._bootstrap_external", "ntpath", "runpy", "zipimport", "__future__",
}

// pythonRead is how many of them, from the first, are imported where they are not frozen.
const pythonRead = 11

// pythonPlaces returns where modules are, in the order of sys.path, and the tag of compiled
// ones, as in cpython-311.
func (p *predictor) pythonPlaces() (dirs []string, tag string) {
	if p.python.dirs != nil {
		return p.python.dirs, p.python.tag
	}
	dirs = []string{}
	for d := range strings.SplitSeq(p.env["PYTHONPATH"], ":") {
		if path.IsAbs(d) && len(dirs) < 64 {
			dirs = append(dirs, d)
		}
	}
	if p.python.version != "" {
		for _, d := range slices.Concat(p.python.bins, p.path) {
			if home := path.Dir(d); p.file(home+"/pyvenv.cfg") != nil {
				dirs = append(dirs, home+"/lib/python"+p.python.version+"/site-packages")
			}
		}
		lib := path.Join("/", p.python.prefix, "lib", "python"+p.python.version)
		tag = "cpython-" + strings.ReplaceAll(p.python.version, ".", "")
		dirs = append(dirs, lib, lib+"/lib-dynload", "/usr/local/lib/python"+p.python.version+"/dist-packages", lib+"/site-packages", path.Join("/", p.python.prefix, "lib/python3/dist-packages"))
	}
	p.python.dirs, p.python.tag = dirs, tag
	return dirs, tag
}

// A pythonPlace says which Python is started.
type pythonPlace struct {
	prefix, version string
	frozen          bool     // it has pythonFrozen in itself
	bins            []string // folders that interpreters were named in, which may be virtual environments
	dirs            []string
	tag             string
	modules         int
	alone           map[string]bool         // folders of compiled modules for which sources are not read
	known           map[string][]moduleFile // what names lead to in dirs
	held            int                     // names and files in known
}

// pythonBegins follows what the interpreter f reads before it reads a program.
func (p *predictor) pythonBegins(f *file) {
	version := strings.TrimPrefix(path.Base(f.path), "python")
	minor, err := strconv.Atoi(strings.TrimPrefix(version, "3."))
	if err != nil {
		return
	}
	p.python.version, p.python.prefix, p.python.frozen, p.python.dirs = version, path.Dir(path.Dir(f.path)), minor >= 11, nil
	p.python.known, p.python.held = nil, 0
	dirs, _ := p.pythonPlaces()
	begins := pythonStart
	if !p.python.frozen {
		begins = append(pythonFrozen[:pythonRead:pythonRead], begins...)
	}
	for _, name := range begins {
		p.pythonModule(name, "", 1)
	}
	for _, d := range dirs {
		for _, name := range p.list(d) {
			if strings.HasSuffix(name, ".pth") {
				if g := p.file(path.Join(d, name)); g != nil && g.size <= maxPlain {
					p.addWhole(g)
				}
			}
		}
	}
}

// pythonText follows the modules that a Python text imports while it is loaded.
func (p *predictor) pythonText(b []byte, dir string, depth int) {
	var found []moduleFile
	seen := make(map[string]bool)
	p.pythonImports(b, func(name string) {
		if name == "math" || name == "cmath" {
			p.pythonMath()
		}
		for _, m := range p.pythonFind(name, dir) {
			if !seen[m.path] && !p.told[m.path] && p.linked[m.path] != used {
				seen[m.path] = true
				found = append(found, m)
			}
		}
	})
	for _, m := range found { // all at once, if they are far
		p.soon(m.file)
		if c := p.compiled(m); c != nil {
			if _, known := p.python.alone[path.Dir(c.path)]; !known {
				p.soon(c)
			}
		}
	}
	p.pythonFiles(found, depth)
}

// pythonMath adds the tables of the library for mathematics: an interpreter that is linked with it
// does without them; see constants.
func (p *predictor) pythonMath() {
	if f := p.findLibrary("libm.so.6", nil); f != nil && f.size <= wholeObject {
		p.addWhole(f)
	}
}

// A moduleFile is a source or an extension module, and its path without suffix, which may
// lead through links.
type moduleFile struct {
	*file
	name string
}

// pythonModule follows a module, and the packages that it is in.
func (p *predictor) pythonModule(name, dir string, depth int) {
	p.pythonFiles(p.pythonFind(name, dir), depth)
}

// pythonMain follows a module that is run, as by python -m.
func (p *predictor) pythonMain(name, dir string, depth int) {
	p.pythonModule(name, dir, depth)
	p.pythonModule(name+".__main__", dir, depth)
}

func (p *predictor) pythonFiles(files []moduleFile, depth int) {
	for _, m := range files {
		if path.Ext(m.path) == ".so" {
			p.library(m.file)
		} else {
			p.pythonSource(m, depth)
		}
	}
}

// pythonImports calls fn for each module that a text imports outside of functions; a name
// with leading dots is relative. What follows "from x import" may be modules too.
func (p *predictor) pythonImports(b []byte, fn func(name string)) {
	deferred, depth := false, -1 // inside a function, below that indent
	var from string
	open := false // a list of names in parentheses goes on
	for line := range strings.Lines(string(b)) {
		indent := 0
		for indent < len(line) && (line[indent] == ' ' || line[indent] == '\t') {
			indent++
		}
		if !open && deferred && indent > depth {
			continue
		}
		trimmed := strings.TrimSpace(line[indent:])
		if open {
			names, _, closed := strings.Cut(trimmed, ")")
			pythonNames(names, func(n string) { fn(join(from, n)) })
			open = !closed
			continue
		}
		if trimmed == "" || trimmed[0] == '#' {
			continue
		}
		deferred = false
		if strings.HasPrefix(trimmed, "def ") || strings.HasPrefix(trimmed, "async def ") || strings.HasPrefix(trimmed, "if TYPE_CHECKING") || strings.HasPrefix(trimmed, "if __name__") {
			deferred, depth = true, indent
			continue
		}
		if c := trimmed[0]; c != 'i' && c != 'f' && strings.IndexByte(trimmed, ';') < 0 {
			continue // it begins no import, as most do not
		}
		for statement := range strings.SplitSeq(trimmed, ";") {
			statement = strings.TrimSpace(statement)
			if list, ok := strings.CutPrefix(statement, "import "); ok {
				pythonNames(list, fn)
			} else if rest, ok := strings.CutPrefix(statement, "from "); ok {
				name, list, ok := strings.Cut(rest, " import")
				if name = strings.TrimSpace(name); !ok || !pythonName(name) {
					continue
				}
				fn(name)
				from = name
				if i := strings.IndexByte(list, '('); i >= 0 {
					list = list[i+1:]
					list, _, ok = strings.Cut(list, ")")
					open = !ok
				}
				pythonNames(list, func(n string) { fn(join(name, n)) })
			}
		}
	}
}

func join(from, name string) string {
	if strings.HasSuffix(from, ".") {
		return from + name
	}
	return from + "." + name
}

// pythonNames calls fn for the names of a list, without what they are called by.
func pythonNames(list string, fn func(string)) {
	list, _, _ = strings.Cut(list, "#")
	for part := range strings.SplitSeq(list, ",") {
		part = strings.TrimSpace(part)
		if i := strings.IndexFunc(part, unicode.IsSpace); i >= 0 {
			part = part[:i]
		}
		if n := strings.Trim(part, `"'();\`); pythonName(n) {
			fn(n)
		}
	}
}

// pythonName reports whether s can be a module's name.
func pythonName(s string) bool {
	for i := range len(s) {
		if c := s[i]; c != '.' && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c < utf8.RuneSelf {
			return false
		}
	}
	return s != "" && len(s) < 256
}

// pythonFind returns the files of a module and of the packages that it is in, none if it is
// built in or not there. dir is the folder of who imports it.
func (p *predictor) pythonFind(name, dir string) []moduleFile {
	if relative := strings.TrimLeft(name, "."); len(relative) < len(name) {
		for range len(name) - len(relative) - 1 {
			dir = path.Dir(dir)
		}
		files, _ := p.pythonIn(dir, relative)
		return files
	}
	if p.python.frozen && slices.Contains(pythonFrozen, name) {
		return nil
	}
	if p.times++; p.times > maxTimes {
		return nil
	}
	if dir != "" {
		if files, found := p.pythonIn(dir, name); found {
			return files
		}
	}
	files, ok := p.python.known[name]
	if ok {
		return files
	}
	dirs, _ := p.pythonPlaces()
	for _, d := range dirs {
		var found bool
		if files, found = p.pythonIn(d, name); found {
			break
		}
	}
	if p.python.known == nil {
		p.python.known = make(map[string][]moduleFile)
	}
	if n := p.python.held + 1 + len(files); n <= maxLookups {
		p.python.known[strings.Clone(name)] = files // not all of the text with it
		p.python.held = n
	}
	return files
}

// pythonIn returns the files of a module below a folder, and whether its first part is
// there.
func (p *predictor) pythonIn(dir, name string) (files []moduleFile, found bool) {
	for part := range strings.SplitSeq(name, ".") {
		if part == "" {
			break
		}
		if real := p.dir(dir); real == "" || !p.begun(real, part) {
			break
		}
		base := path.Join(dir, part)
		if p.dir(base) != "" {
			if f := p.file(base + "/__init__.py"); f != nil {
				files = append(files, moduleFile{f, base + "/__init__"})
			} else if !found && len(p.list(base)) == 0 {
				break
			}
			found, dir = true, base
			continue
		}
		if f := p.file(base + ".py"); f != nil {
			return append(files, moduleFile{f, base}), true
		}
		for _, suffix := range p.pythonSuffixes() {
			if f := p.file(base + suffix); f != nil {
				return append(files, moduleFile{f, base}), true
			}
		}
		break
	}
	return files, found
}

// pythonSuffixes returns how extension modules end.
func (p *predictor) pythonSuffixes() []string {
	_, tag := p.pythonPlaces()
	if tag == "" {
		return []string{".so"}
	}
	list := []string{".abi3.so", ".so"}
	for _, triplet := range []string{"x86_64-linux-gnu", "aarch64-linux-gnu", "x86_64-linux-musl", "aarch64-linux-musl"} {
		list = append(list, "."+tag+"-"+triplet+".so")
	}
	return list
}

// maxModules bounds the modules that are followed.
const maxModules = 4096

// alone reports whether the interpreter does without the source of a compiled module, as its
// head says: it is bound to it by its contents, which have to be read for that, or by time
// and size, which are wrong in images whose times were cut off.
func alone(compiled, source *file) bool {
	head := compiled.bytes(0, 16)
	if len(head) < 16 {
		return false
	}
	const byContents, checked = 1, 2
	le := binary.LittleEndian
	if flags := le.Uint32(head[4:]); flags&byContents != 0 {
		return flags&checked == 0
	}
	return le.Uint32(head[8:]) == uint32(source.modified) && le.Uint32(head[12:]) == uint32(source.size)
}

// alone is [alone] of the first compiled module of a folder that is asked about: one tool
// compiled the others as well, as a rule, and their heads are all that would be read of them.
func (p *predictor) alone(compiled, source *file) bool {
	dir := path.Dir(compiled.path)
	is, ok := p.python.alone[dir]
	if !ok {
		if p.python.alone == nil {
			p.python.alone = make(map[string]bool)
		}
		is = alone(compiled, source)
		p.python.alone[dir] = is
	}
	return is
}

// compiled returns the compiled form of a source, which lies beside its name; nil: there is
// none.
func (p *predictor) compiled(m moduleFile) *file {
	_, tag := p.pythonPlaces()
	dir, base := path.Split(m.name)
	return p.file(path.Join(dir, "__pycache__", base+"."+tag+".pyc"))
}

// pythonSource follows a module's source: it is looked through, and what is read in its
// place is its compiled form, if there is one.
func (p *predictor) pythonSource(m moduleFile, depth int) {
	if p.told[m.path] || p.python.modules >= maxModules {
		return
	}
	p.told[m.path] = true
	p.python.modules++
	c := p.compiled(m)
	if c != nil {
		p.addWhole(c)
	}
	if c == nil || !p.alone(c, m.file) {
		p.addWhole(m.file)
	}
	if b := m.text(); b != nil {
		p.pythonText(b, path.Dir(m.name), depth)
	}
}
