package predict

import (
	"path"
	"slices"
)

// cParts are the programs that the driver of the compiler for C runs, in this order: of its own
// folder, or in PATH.
var cParts = []string{"cc1", "as", "collect2", "ld"}

// linkedHead is what a linker reads of a library, in bytes: its table, and small ones whole.
const linkedHead = 64 << 10

// cFiles are what programs are linked with if they do not say else.
var cFiles = []string{
	"liblto_plugin.so", "Scrt1.o", "crti.o", "crtbeginS.o", "libgcc.a", "libgcc_s.so", "libc.so", "libc_nonshared.a", "crtendS.o", "crtn.o",
}

// cBegins follows what the compiler for C reads whatever it compiles.
func (p *predictor) cBegins() {
	folders := p.glob("/usr/lib/gcc/*/*")
	for _, name := range cParts {
		f := p.lookPath(name, "/")
		for _, d := range folders {
			if g := p.executable(path.Join(d, name)); g != nil {
				f = g
			}
		}
		if f != nil {
			p.run(f, 1)
		}
	}
	places := slices.Concat(folders, p.libraryDirs())
	for _, name := range cFiles {
		for _, d := range places {
			if f := p.file(path.Join(d, name)); f != nil {
				p.add(f, 0, linkedHead)
			}
		}
	}
	if h := p.module(cLang, "stdc-predef.h", ""); h != nil {
		p.source(h, cLang, 0)
	}
}

// cPlaces returns where headers are.
func (p *predictor) cPlaces() []string {
	if p.cDirs == nil {
		p.cDirs = append(p.glob("/usr/lib/gcc/*/*/include"), "/usr/local/include")
		p.cDirs = append(append(p.cDirs, p.glob("/usr/include/*-linux-gnu")...), "/usr/include")
	}
	return p.cDirs
}
