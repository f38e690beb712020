package predict

import (
	"bytes"
	"path"
	"regexp"
	"strings"

	"github.com/rivuletfs/rivulet/internal/lateregexp"
)

// How modules are asked for, by language. The name is the last group.
var asks = map[string]func() *regexp.Regexp{
	perl:  lateregexp.New(`(?m)(?:^|[\s;{'"])(?:use|require)\s+([A-Za-z][\w:]*)|-M([A-Za-z][\w:]*)`),
	node:  lateregexp.New(`(?:require\(|\bfrom\s|^import\s|import\()\s*['"]([^'"\s]{1,256})['"]`),
	rLang: lateregexp.New(`(?:library|require|requireNamespace|loadNamespace)\(\s*['"]?([A-Za-z][\w.]+)|([A-Za-z][\w.]+)::`),
	cLang: lateregexp.New(`#\s*include\s*[<"]([^<>"\s]{1,256})[>"]`),
	ruby:  lateregexp.New(`(?m)(?:^|[\s;'"])require(?:_relative)?[\s(]+['"]([^'"\s]{1,256})['"]|-r([a-z][\w/]*)`),
}

// maxAsked bounds the modules that a text asks for.
const maxAsked = 1024

// modules follows what a text in Perl, JavaScript, Ruby, R or C asks for.
func (p *predictor) modules(b []byte, language, dir string, depth int) {
	if language == rLang && p.rDirs == nil {
		return // nobody runs it
	}
	for _, name := range askedFor(b, language) {
		if p.spent() {
			return
		}
		if language == rLang {
			p.rPackage(name)
			continue
		}
		f := p.module(language, name, dir)
		if f == nil {
			continue
		}
		p.source(f, language, depth)
		if language == perl {
			p.perlObject(name)
		}
	}
}

// askedFor returns the names that a text asks for, each once.
func askedFor(b []byte, language string) (names []string) {
	if language == perl {
		b = perlCode(b)
	}
	seen := make(map[string]bool)
	for _, m := range asks[language]().FindAllSubmatch(b, maxAsked) {
		name := m[1]
		if len(name) == 0 && len(m) > 2 {
			name = m[2]
		}
		if len(name) <= maxPath && !seen[string(name)] {
			seen[string(name)] = true
			names = append(names, string(name))
		}
	}
	return names
}

// source follows a file of a module; modules ask for others however deep.
func (p *predictor) source(f *file, language string, depth int) {
	if p.told[f.path] || p.followed >= maxModules {
		return
	}
	p.told[f.path] = true
	p.followed++
	if l := parseELF(f); l != nil {
		p.object(l, wholeObject)
		p.libraries(l)
		return
	}
	p.addWhole(f)
	if b := f.text(); b != nil {
		p.modules(b, language, path.Dir("/"+f.path), depth)
	}
}

// module returns the file of a module; nil: it is built in, or not there.
func (p *predictor) module(language, name, dir string) *file {
	switch language {
	case perl:
		for _, d := range p.perlPlaces() {
			if f := p.file(path.Join(d, strings.ReplaceAll(name, "::", "/")) + ".pm"); f != nil {
				return f
			}
		}
	case node:
		return p.nodeModule(name, dir)
	case cLang:
		return p.inPlaces(dir, p.cPlaces(), name, "")
	case ruby:
		return p.inPlaces(dir, p.rubyPlaces(), name, ".rb", ".so")
	}
	return nil
}

// inPlaces looks for a name with one of the suffixes in dir, and then in places.
func (p *predictor) inPlaces(dir string, places []string, name string, suffixes ...string) *file {
	for i := -1; i < len(places) && !p.spent(); i++ {
		if i >= 0 {
			dir = places[i]
		}
		for _, suffix := range suffixes {
			if f := p.file(path.Join(dir, name) + suffix); f != nil {
				return f
			}
		}
	}
	return nil
}

// perlCode returns a text without its documentation, and what follows its end.
func perlCode(b []byte) []byte {
	out := make([]byte, 0, len(b))
	documentation := false
	for line := range bytes.Lines(b) {
		switch word, _, _ := bytes.Cut(line, []byte{'\n'}); {
		case bytes.Equal(word, []byte("__END__")), bytes.Equal(word, []byte("__DATA__")):
			return out
		case bytes.HasPrefix(line, []byte("=cut")):
			documentation = false
		case len(line) > 1 && line[0] == '=' && line[1] >= 'a' && line[1] <= 'z':
			documentation = true
		case !documentation:
			out = append(out, line...)
		}
	}
	return out
}

// perlObject follows the library of a Perl module, if it has one.
func (p *predictor) perlObject(name string) {
	dir := strings.ReplaceAll(name, "::", "/")
	for _, d := range p.perlPlaces() {
		if f := p.file(path.Join(d, "auto", dir, path.Base(dir)+".so")); f != nil {
			p.library(f)
			return
		}
	}
}

func (p *predictor) perlPlaces() []string {
	if p.perlDirs == nil {
		p.perlDirs = append(strings.Split(p.env["PERL5LIB"], ":"), "/etc/perl")
		for _, pattern := range []string{
			"/usr/local/lib/*/perl/*", "/usr/local/share/perl/*", "/usr/local/lib/perl5/*", "/usr/lib/*/perl5/*", "/usr/share/perl5",
			"/usr/lib/*/perl-base", "/usr/lib/*/perl/*", "/usr/share/perl/*",
		} {
			p.perlDirs = append(p.perlDirs, p.glob(pattern)...)
		}
	}
	return p.perlDirs
}

func (p *predictor) rubyPlaces() []string {
	if p.rubyDirs == nil {
		p.rubyDirs = []string{}
		for _, pattern := range []string{
			"/usr/local/lib/ruby/[0-9]*", "/usr/local/lib/ruby/[0-9]*/*-linux*", "/usr/lib/ruby/vendor_ruby", "/usr/lib/*/ruby/vendor_ruby/[0-9]*",
			"/usr/lib/ruby/[0-9]*", "/usr/lib/*/ruby/[0-9]*",
		} {
			p.rubyDirs = append(p.rubyDirs, p.glob(pattern)...)
		}
	}
	return p.rubyDirs
}

// nodeModule finds a module as Node does.
func (p *predictor) nodeModule(name, dir string) *file {
	if strings.HasPrefix(name, ".") || path.IsAbs(name) {
		if !path.IsAbs(name) {
			name = path.Join(dir, name)
		}
		return p.nodeFile(name)
	}
	for d := dir; ; d = path.Dir(d) {
		if f := p.nodeFile(path.Join(d, "node_modules", name)); f != nil {
			return f
		}
		if d == "/" || d == "." {
			break
		}
	}
	for _, d := range []string{"/usr/local/lib/node_modules", "/usr/lib/nodejs", "/usr/share/nodejs", "/usr/lib/node_modules"} {
		if f := p.nodeFile(path.Join(d, name)); f != nil {
			return f
		}
	}
	return nil
}

var nodeMain = lateregexp.New(`"main"\s*:\s*"([^"]{1,256})"`)

// nodeFile finds the file of a module at a path: a file, or what a folder's package.json
// names.
func (p *predictor) nodeFile(name string) *file {
	for _, suffix := range []string{"", ".js", ".json", ".node", ".cjs", ".mjs"} {
		if f := p.file(name + suffix); f != nil {
			return f
		}
	}
	if p.dir(name) == "" {
		return nil
	}
	main := "index.js"
	if f := p.file(path.Join(name, "package.json")); f != nil {
		if b := f.text(); b != nil {
			p.addWhole(f)
			if m := nodeMain().FindSubmatch(b); m != nil {
				main = string(m[1])
			}
		}
	}
	for _, suffix := range []string{"", ".js", "/index.js"} {
		if f := p.file(path.Join(name, main) + suffix); f != nil {
			return f
		}
	}
	return nil
}
