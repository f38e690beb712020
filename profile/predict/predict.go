// Package predict says what the first start of an image will read, from the image's
// files and its command alone, so that it need not be a start without memory.
//
// A start is followed as far as files tell: a command is looked for in PATH, a script
// names its interpreter and the commands and files in its words, a program its loader,
// its libraries and, among its strings, its configuration; Python, Perl, JavaScript, Ruby, R
// and C sources name their modules. What is found becomes a predicted
// [profile.Profile]: advice, as all profiles are, which the first real start replaces.
//
// Images are hostile: everything that is read, followed or kept is bounded, and what
// makes no sense is passed over. The same image gives the same profile.
package predict

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Bounds of what is followed.
const (
	maxRanges  = 1 << 15 // that are kept
	maxDepth   = 6       // scripts and configurations that name one another
	maxScripts = 512     // texts that are looked through for names
	maxProgram = 256     // programs that are followed
)

// A Start is what is started in an image, as its configuration says.
type Start struct {
	Args []string // command and arguments
	Env  []string // NAME=VALUE
	Dir  string   // where it is started; "" is the root
}

// A Range is bytes of a file.
type Range struct {
	Path        string // in io/fs's form, without symbolic links
	Off, Length int64
}

// ErrNothing is returned (wrapped) when nothing can be said of a start, as when its
// command is not in the image.
var ErrNothing = errors.New("nothing of the start is known")

// Reads returns what a start in fsys will likely read of its files, in about that
// order. Directories and inodes are left out. What is no error of reading fsys is none:
// files that are damaged or hostile say nothing.
func Reads(ctx context.Context, fsys fs.ReadLinkFS, s Start) ([]Range, error) {
	p := &predictor{
		tree:   newTree(ctx, fsys),
		start:  s,
		env:    make(map[string]string),
		ran:    make(map[string]bool),
		told:   make(map[string]bool),
		linked: make(map[string]linkage),
		whole:  make(map[string]bool),
		spoke:  make(map[string]bool),
	}
	for _, e := range s.Env {
		name, value, _ := strings.Cut(e, "=")
		p.env[name] = value
	}
	search := p.env["PATH"]
	if search == "" {
		search = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	for dir := range strings.SplitSeq(search, ":") {
		if strings.HasPrefix(dir, "/") && len(p.path) < 64 {
			p.path = append(p.path, dir)
		}
	}
	p.command(s.Args)
	if p.err != nil {
		return nil, fmt.Errorf("predict the start of %.80q: %w", s.Args, p.err)
	}
	if len(p.ranges) == 0 {
		return nil, fmt.Errorf("predict the start of %.80q: %w", s.Args, ErrNothing)
	}
	return p.ranges, nil
}

// A predictor follows one start.
type predictor struct {
	*tree
	start   Start
	env     map[string]string
	path    []string // where commands are looked for
	dirs    []string // where libraries are, but for a program's own; see libraryDirs
	plugins []string // folders that programs have named, where libraries may be
	ranges  []Range

	ran                map[string]bool    // programs and scripts that were followed
	told               map[string]bool    // texts that were looked through
	linked             map[string]linkage // programs and libraries that are in ranges
	whole              map[string]bool    // files that are in ranges from end to end
	spoke              map[string]bool    // interpreters whose beginning was followed
	scripts            int
	followed           int // modules that were followed, but for those of Python
	python             pythonPlace
	perlDirs, rubyDirs []string
	cDirs              []string // where headers are
	rDirs              []string // where R's packages are; none until R is followed
	once               bool     // the locale was added
	knowsUsers         bool     // what tells who the users are was
	knowsGroups        bool
}

// add adds a range of a file.
func (p *predictor) add(f *file, off, length int64) {
	length = min(length, f.size-off, wholeBody)
	if off >= 0 && length > 0 && !p.whole[f.path] && len(p.ranges) < maxRanges {
		p.ranges = append(p.ranges, Range{f.path, off, length})
	}
}

// addWhole adds a file from end to end.
func (p *predictor) addWhole(f *file) {
	p.add(f, 0, f.size)
	p.whole[f.path] = true
}

// command follows the start's own command line.
func (p *predictor) command(args []string) {
	if len(args) == 0 {
		return
	}
	dir := "/" + p.start.Dir
	f := p.lookPath(args[0], dir)
	if f == nil {
		return
	}
	p.run(f, 0)
	language := languageOf(f.path)
	words := args[1:]
	for i, a := range words[:min(len(words), 64)] {
		if strings.ContainsAny(a, " \t\n;") { // as of sh -c
			p.text([]byte(a), language, dir, 0)
			continue
		}
		if language == python && i > 0 && words[i-1] == "-m" {
			p.pythonMain(a, dir, 0)
		}
		if g := p.file(path.Join(dir, a)); g != nil {
			p.mentioned(g, language, 0)
		} else if g := p.lookPath(a, dir); g != nil && !strings.HasPrefix(a, "-") && language == "" {
			p.run(g, 0) // of tini, env and the like
		}
	}
}

// lookPath finds a command as execvp does; nil: there is none.
func (p *predictor) lookPath(name, dir string) *file {
	if strings.Contains(name, "/") {
		if !path.IsAbs(name) {
			name = path.Join(dir, name)
		}
		if languageOf(name) == python && len(p.python.bins) < 16 {
			p.python.bins = append(p.python.bins, path.Dir(name))
		}
		return p.executable(name)
	}
	for _, d := range p.path {
		if f := p.executable(path.Join(d, name)); f != nil {
			return f
		}
	}
	return nil
}

// executable returns the file that a path leads to if it may be run.
func (p *predictor) executable(name string) *file {
	if f := p.file(name); f != nil && f.mode&0o111 != 0 {
		return f
	}
	return nil
}

// run follows a file that is executed.
func (p *predictor) run(f *file, depth int) {
	if p.ran[f.path] || depth > maxDepth || len(p.ran) >= maxProgram {
		return
	}
	p.ran[f.path] = true
	head := f.bytes(0, 256)
	switch {
	case bytes.HasPrefix(head, []byte("#!")):
		line, _, _ := bytes.Cut(head[2:], []byte("\n"))
		p.addWhole(f)
		language := p.interpreter(strings.Fields(string(line)), depth)
		if b := f.text(); b != nil {
			p.text(b, language, path.Dir("/"+f.path), depth)
		}
	case bytes.HasPrefix(head, []byte(elfMagic)):
		p.program(f, depth)
	case f.size <= maxPlain:
		p.addWhole(f)
	}
}

// interpreter follows the words of a script's first line, and returns the language
// of the script.
func (p *predictor) interpreter(words []string, depth int) string {
	if len(words) == 0 {
		return ""
	}
	f := p.lookPath(words[0], "/")
	if f == nil {
		return ""
	}
	p.run(f, depth+1)
	if path.Base(words[0]) == "env" {
		for _, w := range words[1:] {
			if g := p.lookPath(w, "/"); g != nil {
				p.run(g, depth+1)
				return languageOf(g.path)
			}
		}
	}
	return languageOf(f.path)
}

// mentioned follows a file that is named where it will be read or run. A text of a
// language is looked through as such, others as configuration.
func (p *predictor) mentioned(f *file, language string, depth int) {
	if p.ran[f.path] || p.told[f.path] || depth > maxDepth || p.scripts >= maxScripts {
		return
	}
	head := f.bytes(0, 4)
	if f.mode&0o111 != 0 && (bytes.HasPrefix(head, []byte("#!")) || bytes.HasPrefix(head, []byte(elfMagic))) {
		p.run(f, depth)
		return
	}
	if bytes.HasPrefix(head, []byte(elfMagic)) {
		p.plug(f, depth)
		return
	}
	p.told[f.path] = true
	b := f.text()
	if b == nil {
		if f.size <= maxPlain {
			p.addWhole(f)
		}
		return
	}
	p.addWhole(f)
	if l := languageOfSource(f.path); l != "" {
		language = l
	} else if depth > 0 {
		language = ""
	}
	p.text(b, language, path.Dir("/"+f.path), depth)
}

// Languages that have rules.
const (
	shell  = "sh"
	python = "python"
	perl   = "perl"
	node   = "node"
	ruby   = "ruby"
	java   = "java"
	rLang  = "R"
	erlang = "erlang"
	cLang  = "C"
)

// languageOf returns the language of an interpreter; "": it has no rules.
func languageOf(program string) string {
	name := strings.TrimRight(path.Base(program), "0123456789.")
	if strings.HasSuffix(name, "gcc") || strings.HasSuffix(name, "gcc-") { // as of x86_64-linux-gnu-gcc-12
		return cLang
	}
	switch name {
	case "sh", "bash", "dash", "ash", "busybox", "zsh", "ksh":
		return shell
	case "python", "pypy":
		return python
	case "node", "nodejs":
		return node
	case perl, ruby, java, rLang:
		return name
	case "Rscript":
		return rLang
	case "erlexec":
		return erlang
	}
	return ""
}

// languageOfSource returns the language of a source file by its name.
func languageOfSource(name string) string {
	switch path.Ext(name) {
	case ".sh", ".bash":
		return shell
	case ".py":
		return python
	case ".pl", ".pm":
		return perl
	case ".js", ".cjs", ".mjs":
		return node
	case ".rb":
		return ruby
	case ".R":
		return rLang
	case ".c", ".h":
		return cLang
	}
	return ""
}

// text looks through a text in a language for what it names.
func (p *predictor) text(b []byte, language, dir string, depth int) {
	if p.scripts++; depth > maxDepth || p.scripts > maxScripts {
		return
	}
	switch language {
	case shell:
		p.script(b, dir, depth)
	case python:
		p.pythonText(b, dir, depth)
	case perl, node, ruby, rLang, cLang:
		p.modules(b, language, dir, depth)
	default:
		p.configuration(b, dir, depth)
	}
}

// libraryDirs returns the folders that a loader looks for libraries in, but for those that
// a program names.
func (p *predictor) libraryDirs() []string {
	if p.dirs != nil {
		return p.dirs
	}
	dirs := []string{}
	for d := range strings.SplitSeq(p.env["LD_LIBRARY_PATH"], ":") {
		if path.IsAbs(d) {
			dirs = append(dirs, d)
		}
	}
	dirs = p.loaderFolders("etc/ld.so.conf", dirs, 0)
	for _, root := range []string{"/lib", "/usr/lib"} {
		for _, d := range p.list(root) {
			if strings.HasSuffix(d, "-linux-gnu") || strings.HasSuffix(d, "-linux-gnueabihf") || strings.HasSuffix(d, "-linux-musl") {
				dirs = append(dirs, path.Join(root, d))
			}
		}
	}
	dirs = append(dirs, "/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib")
	var real []string
	for _, d := range dirs {
		if r := p.dir(d); r != "" && !slices.Contains(real, "/"+r) && len(real) < 64 {
			real = append(real, "/"+r)
		}
	}
	p.dirs = real
	return real
}

// loaderFolders adds the folders that a configuration of the loader names.
func (p *predictor) loaderFolders(name string, dirs []string, depth int) []string {
	f := p.file(name)
	if f == nil || depth > 2 {
		return dirs
	}
	for line := range strings.Lines(string(f.text())) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		switch {
		case len(words) == 2 && words[0] == "include":
			for _, g := range p.glob(words[1]) {
				dirs = p.loaderFolders(g, dirs, depth+1)
			}
		case len(words) == 1 && path.IsAbs(words[0]) && len(dirs) < 64:
			dirs = append(dirs, words[0])
		}
	}
	return dirs
}
