package python

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
)

func TestModulesOf(t *testing.T) {
	const site, other = "usr/lib/site", "packages/x==1"
	for _, c := range []struct{ files, want string }{
		{"six.py six-1.dist-info/RECORD", "six"},
		{"numpy/__init__.py numpy/core/__init__.py numpy/version.py numpy/core/_multiarray.cpython-311-x86_64-linux-gnu.so", "numpy"},
		{"numpy.libs/libblas-0.so numpy/__init__.py", "numpy"},
		{"google/protobuf/__init__.py google/protobuf/any.py google/api.py", "google.api google.protobuf"},
		{"_cffi_backend.cpython-311-x86_64-linux-gnu.so cffi/__init__.py", "cffi"},
		{"yaml/__init__.py tests/__init__.py tests/test_a.py docs/conf.py", "yaml"},
		{"lxml/etree.cpython-311-x86_64-linux-gnu.so lxml/__init__.py", "lxml"},
		{"simple.abi3.so not-a-module.py 1x.py", "simple"},
		{"data.json x.pth", ""},
	} {
		for _, at := range []string{site, other} {
			paths := []string{"usr/bin/program.py"}
			for f := range strings.FieldsSeq(c.files) {
				paths = append(paths, at+"/"+f)
			}
			if got := strings.Join(ModulesOf(paths, other, site), " "); got != c.want {
				t.Errorf("%s: %q, want %q", c.files, got, c.want)
			}
		}
	}
}

func TestImportIsChecked(t *testing.T) {
	var none *Import
	if none.Check() != nil {
		t.Error("what was not measured is refused")
	}
	good := func() *Import {
		return &Import{Modules: []string{"a.b"}, Seconds: 1, Reads: []Read{{Path: "a/b.py", At: 0.5, Bytes: 100, Ranges: [][2]int64{{0, 65536}}}}}
	}
	if err := good().Check(); err != nil || good().Bytes() != 100 {
		t.Errorf("%v, %d bytes", err, good().Bytes())
	}
	for what, spoil := range map[string]func(*Import){
		"a module's name": func(i *Import) { i.Modules[0] = "os; x" },
		"a time":          func(i *Import) { i.Seconds = math.NaN() },
		"a long time":     func(i *Import) { i.Reads[0].At = 1e9 },
		"no path":         func(i *Import) { i.Reads[0].Path = "" },
		"a path upwards":  func(i *Import) { i.Reads[0].Path = "a/../../b" },
		"an offset":       func(i *Import) { i.Reads[0].Ranges[0][0] = -1 },
		"a range's end":   func(i *Import) { i.Reads[0].Ranges[0] = [2]int64{1 << 62, math.MaxInt64} },
		"too many reads":  func(i *Import) { i.Reads = make([]Read, maxReads+1) },
	} {
		i := good()
		spoil(i)
		if i.Check() == nil {
			t.Errorf("%s: accepted", what)
		}
	}
}

// FuzzImport: whatever a record or a module says of an import, what is accepted has its form.
func FuzzImport(f *testing.F) {
	f.Add([]byte(`{"modules":["a"],"seconds":0.1,"with":"x","reads":[{"path":"a.py","at":0.1,"bytes":5,"ranges":[[0,65536]]}]}`))
	f.Add([]byte(`{"reads":[{"path":"/etc/passwd"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var i Import
		if json.Unmarshal(b, &i) != nil || i.Check() != nil {
			return
		}
		if i.Bytes() < 0 {
			t.Errorf("%d bytes", i.Bytes())
		}
		for _, r := range i.Reads {
			if strings.HasPrefix(r.Path, "/") || strings.Contains(r.Path, "..") && strings.Contains("/"+r.Path+"/", "/../") {
				t.Errorf("path %q", r.Path)
			}
		}
	})
}
