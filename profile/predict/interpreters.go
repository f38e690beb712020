package predict

import "path"

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
	case perl:
		for _, name := range []string{"strict", "warnings"} {
			if m := p.module(perl, name, ""); m != nil {
				p.source(m, perl, 0)
			}
		}
	}
}

// embedded follows a program of another language in a script of the shell.
func (p *predictor) embedded(b []byte, language, dir string, depth int) {
	switch language {
	case python:
		p.pythonText(unquoted(b), dir, depth)
	case perl, node, ruby:
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
	javaModules = 1 << 20 // of the image of modules: its head and index
)

// javaBegins follows what the java program f reads beside its libraries: its machine's
// library, and the first of the classes.
func (p *predictor) javaBegins(f *file) {
	home := path.Dir(path.Dir(f.path))
	for _, name := range []string{"lib/jvm.cfg", "lib/server/libjvm.so", "lib/libjimage.so", "lib/libjava.so", "lib/libverify.so", "lib/libnio.so", "lib/libnet.so", "lib/libzip.so"} {
		g := p.file(path.Join(home, name))
		if g == nil {
			continue
		}
		if path.Ext(name) == ".so" {
			p.library(g)
		} else {
			p.addWhole(g)
		}
	}
	for _, name := range []string{"lib/server/classes.jsa", "lib/modules"} {
		if g := p.file(path.Join(home, name)); g != nil {
			p.add(g, 0, javaModules)
		}
	}
}
