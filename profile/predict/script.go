package predict

import (
	"bytes"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/rivuletfs/rivulet/internal/lateregexp"
)

// maxSentence bounds quoted words for who reads them, in bytes.
const maxSentence = 1 << 10

// builtins are commands that shells have in themselves, and reserved words.
var builtins = sync.OnceValue(func() map[string]bool {
	return set(`. : [ alias bg break case cd command continue declare do done echo elif else esac eval exec exit
		export false fg fi for function getopts hash if in jobs kill let local printf pwd read readonly return select set shift
		shopt source test then time times trap true type typeset ulimit umask unalias unset until wait while { } [[ ]] !`)
})

// runners are words that another command follows.
var runners = sync.OnceValue(func() map[string]bool {
	return set(`! chroot command do dumb-init elif else env eval exec gosu if nice nohup runuser setpriv setsid
		stdbuf su-exec sudo then time timeout tini until while xargs {`)
})

// set returns the words of a list.
func set(list string) map[string]bool {
	m := make(map[string]bool)
	for w := range strings.FieldsSeq(list) {
		m[w] = true
	}
	return m
}

// A word is a part of a script, without its quotes.
type word struct {
	text    string
	command bool // a command may stand there
	said    bool // it is of a sentence, for who reads it
}

// words cuts a script into words, roughly: it knows no grammar, so that nothing it
// is given can lead it astray.
func words(b []byte) []word {
	var list []word
	first, comment := true, false
	start := -1
	said, inner := -1, false // where a sentence ends, and whether a command of it is here
	end := func(i int) {
		if start >= 0 && len(list) < 1<<15 {
			w := string(b[start:i])
			list = append(list, word{w, first, i <= said && !inner})
			name, _, assigned := strings.Cut(w, "=")
			first = first && (runners()[w] || assigned && !strings.ContainsAny(name, "/-"))
		}
		start = -1
	}
	for i, c := range b {
		if comment && c != '\n' {
			continue
		}
		comment = false
		switch c {
		case '"', '\'':
			end(i)
			if i > said && !runs(list) {
				if n := sentence(b[i:]); n > 0 {
					said, inner, first = i+n, false, false
				}
			}
		case ' ', '\t', '\r', ',', '<', '>':
			end(i)
		case '\n', ';', '|', '&', '(', ')', '`':
			opens := c == '`' && !inner
			if start >= 0 && c == '(' && i-start == 1 && b[start] == '$' {
				start, opens = -1, true // of $(command)
			}
			end(i)
			if i < said && (opens || c == ')' || c == '`') {
				inner = opens
			}
			first = i > said || inner
		case '#':
			if start < 0 && i > said {
				comment = true
			}
		default:
			if start < 0 {
				start = i
			}
		}
	}
	end(len(b))
	return list
}

// sentence returns where the quotes end that b begins with, if that is in the same line and blanks
// are between them; 0: not so.
func sentence(b []byte) int {
	line, _, _ := bytes.Cut(b[:min(len(b), maxSentence)], []byte{'\n'})
	n := bytes.IndexByte(line[1:], b[0]) + 1
	if !bytes.ContainsAny(line[:n], " \t") {
		return 0
	}
	return n
}

// runs reports whether what is in quotes behind words will be run, or may be: as of sh -c, and
// what a variable becomes.
func runs(list []word) bool {
	if len(list) == 0 {
		return false
	}
	last := list[len(list)-1].text
	return last == "eval" || strings.HasSuffix(last, "=") || strings.HasPrefix(last, "-") && strings.HasSuffix(last, "c")
}

// script follows a shell script: its commands, and the files that it names by absolute
// paths. What begins with a variable is looked for in the folders that the script names, by its
// last part, and by all that is behind the variable, other variables being empty. Of other
// languages that it runs, it may have programs in itself.
func (p *predictor) script(b []byte, dir string, depth int) {
	list := words(b)
	var dirs []string
	known := func(name string) {
		if d := p.dir(name); d != "" && !slices.Contains(dirs, d) && len(dirs) < 64 {
			dirs = append(dirs, d)
		}
	}
	for _, w := range list {
		for _, g := range p.paths(w.text) {
			known(g)
		}
	}
	for _, w := range list { // and folders in these, as of BIN=$ROOT/bin
		if name := w.variable(); name != "" {
			name = constant(name)
			for _, d := range dirs {
				known(path.Join(d, name))
			}
		}
	}
	for _, w := range list { // all at once, if they are far
		if w.command && !builtins()[w.text] {
			if f := p.lookPath(w.text, dir); f != nil {
				p.soon(f)
			}
		}
	}
	var embedded []string
	run := func(f *file) {
		p.run(f, depth+1)
		if l := languageOf(f.path); l != "" && l != shell && !slices.Contains(embedded, l) {
			embedded = append(embedded, l)
			p.embedded(b, l, dir, depth+1)
		}
	}
	after := false // a runner, whose options and command follow
	for i, w := range list {
		if w.command {
			after = false
		}
		switch {
		case w.variable() != "":
			names := []string{path.Base(w.text), constant(w.variable())}
			for _, d := range dirs {
				for _, name := range names {
					if f := p.file(path.Join(d, name)); f != nil {
						if f.mode&0o111 != 0 {
							run(f)
						} else {
							p.mentioned(f, shell, depth+1)
						}
						break
					}
				}
			}
		case strings.Contains(w.text, "/"):
			for _, g := range p.paths(w.text) {
				if f := p.executable(g); f != nil {
					run(f)
				} else if f := p.file(g); f != nil {
					p.mentioned(f, shell, depth+1)
				}
			}
		case (w.command || after) && !w.said && !builtins()[w.text]:
			if f := p.lookPath(w.text, dir); f != nil {
				run(f)
				after = false
			}
		case languageOfSource(w.text) != "": // as of node server.js
			if f := p.file(path.Join(dir, w.text)); f != nil {
				p.mentioned(f, "", depth+1)
			}
		case i > 0 && list[i-1].text == "-m" && slices.Contains(embedded, python):
			p.pythonMain(w.text, dir, depth+1)
		}
		after = after || w.command && runners()[w.text]
	}
}

// variable returns the path that a word is, or gives to a variable, if it begins with one; else "".
func (w word) variable() string {
	name, value, assigned := strings.Cut(w.text, "=")
	if !assigned || strings.ContainsAny(name, "$/") {
		value = w.text
	}
	if w.said || !strings.HasPrefix(value, "$") || !strings.Contains(value, "/") {
		return ""
	}
	return value
}

var variables = lateregexp.New(`\$(?:\w+|\{[^}]*\})`)

// constant returns a path without the variables in it.
func constant(name string) string {
	return variables().ReplaceAllString(name, "")
}

// paths returns the absolute paths that a word has or, being a pattern, stands for.
func (p *predictor) paths(w string) []string {
	if i := strings.IndexAny(w, "=:"); i >= 0 && i+1 < len(w) && w[0] != '/' {
		w = strings.TrimPrefix(w[i+1:], "-") // of NAME=PATH, and ${NAME:-PATH}
	}
	w = strings.TrimRight(w, "}]);:")
	if !strings.HasPrefix(w, "/") || len(w) < 2 || len(w) > 1024 {
		return nil
	}
	if strings.ContainsAny(w, "*?[") {
		return p.glob(w)
	}
	return []string{w}
}

// configuration follows the files that a text names, absolutely or in its own
// folder, as configurations include one another.
func (p *predictor) configuration(b []byte, dir string, depth int) {
	included := false
	for _, w := range words(b) {
		lower := strings.ToLower(w.text)
		if strings.HasPrefix(lower, "include") || lower == "load_module" {
			included = true
			continue
		}
		if f := p.plugin(w.text); f != nil {
			p.plug(f, depth)
			continue
		}
		list := p.paths(w.text)
		if len(list) == 0 && included && strings.ContainsAny(w.text, "./*") && len(w.text) < 1024 {
			if list = []string{path.Join(dir, w.text)}; strings.ContainsAny(w.text, "*?[") {
				list = p.glob(list[0])
			}
		}
		included = false
		for _, g := range list {
			if f := p.file(g); f != nil && f.mode&0o111 == 0 {
				p.mentioned(f, "", depth+1)
			}
		}
	}
}

// plugin returns the library that a word of a configuration names, in one of the folders that
// programs have named: as in extension=curl.so, or $libdir/plpgsql. nil: it names none.
func (p *predictor) plugin(w string) *file {
	w = w[strings.LastIndexByte(w, '=')+1:]
	name, ok := strings.CutSuffix(path.Base(w), ".so")
	inFolder := strings.HasPrefix(w, "$") && strings.Contains(w, "/")
	if path.IsAbs(w) || !ok && !inFolder {
		return nil
	}
	for _, d := range p.plugins[:min(len(p.plugins), 64)] {
		if f := p.file(path.Join(d, name+".so")); f != nil {
			return f
		}
	}
	return nil
}
