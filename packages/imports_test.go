package packages

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/rivuletfs/rivulet/packages/python"
)

func importOf(path string) *python.Import {
	return &python.Import{Modules: []string{"x"}, Reads: []python.Read{{Path: path}}}
}

// TestImports measures imports of packages that need one another, one of them in a namespace,
// and one that fails.
func TestImports(t *testing.T) {
	if testing.Short() {
		t.Skip("pip and the image's Python do the work")
	}
	p := newPython(t, t.TempDir())
	x := newIndex(t)
	file, data := wheelOf(t, "ff", "1", nil, map[string]string{"ff/__init__.py": "import no_such_module\n", "ff/unused.py": ""})
	x.files[file] = data
	for _, apart := range []bool{false, true} {
		p.Apart = apart
		if _, err := p.Open(context.Background(), []string{"pip:aa", "pip:ee", "pip:ff"}, below); err != nil {
			t.Fatal(err)
		}
	}
	list, err := p.Cache.List()
	if err != nil || len(list) != 10 {
		t.Fatalf("%d packages: %v", len(list), err)
	}
	for _, in := range list {
		i := in.Import
		if i == nil {
			t.Errorf("%s: not measured", in.Name)
			continue
		}
		var read []string
		for _, r := range i.Reads {
			read = append(read, r.Path[strings.LastIndexByte(r.Path, '/')+1:])
		}
		modules := strings.Join(i.Modules, " ")
		want := map[string]string{"aa": "aa shared", "bb": "bb shared", "cc": "cc space.cc", "ee": "space.ee", "ff": "ff"}[in.Name]
		if modules != want {
			t.Errorf("%s: modules %q, want %q", in.Name, modules, want)
		}
		if fails := in.Name == "ff"; fails != strings.Contains(i.Error, "No module named 'no_such_module'") || fails != (i.Error != "") {
			t.Errorf("%s: error %q", in.Name, i.Error)
		}
		if len(read) == 0 || slices.ContainsFunc(read, func(f string) bool {
			return !strings.Contains(f, ".cpython-") && !strings.HasSuffix(f, ".pth") || strings.HasPrefix(f, "unused")
		}) {
			t.Errorf("%s: it read %q, want bytecode and path files alone", in.Name, read)
		}
	}
}

// TestImportsCannotBeMeasured installs packages whose files no folder can have together.
func TestImportsCannotBeMeasured(t *testing.T) {
	if testing.Short() {
		t.Skip("pip and the image's Python do the work")
	}
	p := newPython(t, t.TempDir())
	x := newIndex(t)
	for name, files := range map[string]map[string]string{
		"gg": {"gg/__init__.py": "", "clash": "a file"},
		"hh": {"hh/__init__.py": "", "clash/x.py": ""},
	} {
		file, data := wheelOf(t, name, "1", nil, files)
		x.files[file] = data
	}
	var told []string
	p.Tell = func(line string) { told = append(told, line) }
	if _, err := p.Open(context.Background(), []string{"pip:gg", "pip:hh"}, below); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(strings.Join(told, "\n"), "what imports of the packages read is not known") {
		t.Errorf("told %q", told)
	}
}
