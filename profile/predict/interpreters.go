package predict

import "path"

// begins are the modules that interpreters load by themselves, or that all programs do.
var begins = map[string][]string{
	perl: {"strict", "warnings"},
	ruby: {"enc/encdb", "enc/trans/transdb", "rubygems", "error_highlight", "did_you_mean", "syntax_suggest/core_ext", "monitor"},
}

// beginning follows what an interpreter reads before any program of its language.
func (p *predictor) beginning(language string, f *file) {
	if language == "" || p.spoke[language] {
		return
	}
	p.spoke[language] = true
	switch language {
	case python:
		p.pythonBegins(f)
	case java:
		p.javaBegins(f)
	case erlang:
		p.erlangBegins(f)
	case cLang:
		p.cBegins()
	case perl, ruby:
		for _, name := range begins[language] {
			if m := p.module(language, name, ""); m != nil {
				p.source(m, language, 0)
			}
		}
	}
}

// embedded follows a program of another language in a script of the shell.
func (p *predictor) embedded(b []byte, language, dir string, depth int) {
	switch language {
	case python:
		p.pythonText(unquoted(b), dir, depth)
	case perl, node, ruby, rLang, cLang:
		p.modules(b, language, dir, depth)
	}
}

// unquoted returns a text with a new line in place of each quote, so that a program that
// is quoted begins with a line of its own.
func unquoted(b []byte) []byte {
	out := make([]byte, len(b))
	for i, c := range b {
		if c == '\'' || c == '"' {
			c = '\n'
		}
		out[i] = c
	}
	return out
}

// How much is read of what a Java machine has in large files.
const (
	javaModules = 1 << 20  // of the image of modules: its head and index
	javaArchive = 16 << 20 // of the archive of classes that are loaded already
)

// javaBegins follows what the java program f reads beside its libraries: its machine's
// library, and the first of the classes.
func (p *predictor) javaBegins(f *file) {
	home := path.Dir(path.Dir(f.path))
	for _, name := range []string{"lib/jvm.cfg", "lib/server/libjvm.so", "lib/libjimage.so", "lib/libjava.so", "lib/libjsvml.so"} {
		g := p.file(path.Join(home, name))
		if g == nil {
			continue
		}
		if o := parseELF(g); o != nil {
			p.libraries(o)
			p.object(o, wholeBody)
		} else {
			p.addWhole(g)
		}
	}
	if g := p.file(path.Join(home, "lib/server/classes.jsa")); g != nil {
		p.add(g, 0, javaArchive)
	}
	if g := p.file(path.Join(home, "lib/modules")); g != nil {
		p.add(g, 0, javaModules)
	}
}
