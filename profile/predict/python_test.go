package predict

import (
	"slices"
	"testing"
)

// TestCompiled: the first compiled module of a folder tells whether sources are read beside
// the compiled modules of that folder.
func TestCompiled(t *testing.T) {
	const (
		alone  = "mmmm\x01\x00\x00\x00hashhash"
		beside = "mmmm\x03\x00\x00\x00hashhash"
		lib    = "usr/lib/python3.11/"
	)
	for _, c := range []struct {
		a, b  string
		wants bool // the sources
	}{{alone, beside, false}, {beside, alone, true}, {"short", alone, true}} {
		got := paths(t, base(spec{
			"usr/bin/python3.11": program(), "app/main.py": "import a, b, c.d\n",
			lib + "a.py": "", lib + "__pycache__/a.cpython-311.pyc": c.a, lib + "b.py": "x = 1", lib + "__pycache__/b.cpython-311.pyc": c.b,
			lib + "c/d.py": "x = 1", lib + "c/__pycache__/d.cpython-311.pyc": beside,
		}), Start{Args: []string{"/usr/bin/python3.11", "/app/main.py"}})
		for _, name := range []string{lib + "__pycache__/b.cpython-311.pyc", lib + "c/d.py"} {
			if !slices.Contains(got, name) {
				t.Errorf("%q: %s is not predicted", c.a, name)
			}
		}
		if slices.Contains(got, lib+"b.py") != c.wants {
			t.Errorf("%q: b.py predicted is %v, want %v", c.a, !c.wants, c.wants)
		}
	}
}
