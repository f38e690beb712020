package predict

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// A spec is the files of a test's image: contents by path. Those below bin folders may be
// run; a value that begins with "-> " is a link.
type spec map[string]string

func (s spec) fs() fstest.MapFS {
	m := fstest.MapFS{}
	for name, data := range s {
		f := &fstest.MapFile{Data: []byte(data), Mode: 0o644}
		if target, ok := strings.CutPrefix(data, "-> "); ok {
			f.Data, f.Mode = []byte(target), fs.ModeSymlink|0o777
		} else if strings.Contains(name, "bin/") || strings.HasPrefix(name, "lab/") {
			f.Mode = 0o755
		}
		m[name] = f
	}
	return m
}

var (
	loader  = (&elfSpec{}).bytes()
	program = func(needed ...string) string {
		return string((&elfSpec{interp: "/lib64/ld.so", needed: needed, pad: 10}).bytes())
	}
	naming = func(names ...string) string {
		return string((&elfSpec{interp: "/lib64/ld.so", strings: names, pad: 10}).bytes())
	}
	library = func(needed ...string) string { return string((&elfSpec{needed: needed, pad: 10}).bytes()) }
)

// bootScript is the part of one of Erlang's that says what is loaded first: code and ets.
const bootScript = "\x83h\x02d\x00\x08primLoadl\x00\x00\x00\x02d\x00\x04codew\x03etsjd\x00\x08primLoadl\x00\x00\x00\x01d\x00\x04authj"

// base is what a small distribution has.
func base(more spec) spec {
	s := spec{
		"lib64/ld.so": string(loader), "bin": "-> usr/bin", "lib": "-> usr/lib", "usr/bin/sh": "-> dash", "usr/bin/dash": program("libc.so.6"),
		"usr/bin/cat": program("libc.so.6"), "usr/bin/env": program("libc.so.6"), "usr/lib/x86_64-linux-gnu/libc.so.6": library(),
		"etc/ld.so.conf": "include /etc/ld.so.conf.d/*.conf\n", "etc/ld.so.conf.d/a.conf": "# none\n/opt/lib\n", "etc/ld.so.cache": "cache", "etc/passwd": "root:x:0:0::/:/bin/sh\n",
	}
	for name, data := range more {
		s[name] = data
	}
	return s
}

// paths returns the files that a start reads, in order.
func paths(t *testing.T, s spec, start Start) []string {
	t.Helper()
	ranges, err := Reads(context.Background(), s.fs(), start)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, r := range ranges {
		if f := s[r.Path]; r.Off < 0 || r.Length <= 0 || r.Off+r.Length > int64(len(f)) {
			t.Errorf("%s: range %d+%d of %d bytes", r.Path, r.Off, r.Length, len(f))
		}
		if !slices.Contains(list, r.Path) {
			list = append(list, r.Path)
		}
	}
	return list
}

// common is what any program of base reads.
var common = []string{"usr/bin/dash", "lib64/ld.so", "etc/ld.so.cache", "usr/lib/x86_64-linux-gnu/libc.so.6"}

func TestReads(t *testing.T) {
	for name, c := range map[string]struct {
		files spec
		start Start
		want  []string // beside common
		not   []string
	}{
		"script": {
			base(spec{"lab/hello": "#!/bin/sh\n# cat comments\nset -e; cat /etc/motd\n", "etc/motd": "hello"}), Start{Args: []string{"/lab/hello"}},
			[]string{"lab/hello", "usr/bin/cat", "etc/motd"}, []string{"usr/bin/env"},
		},
		"env": {
			base(spec{"app/bin/run": "#!/usr/bin/env sh\n"}), Start{Args: []string{"run"}, Env: []string{"PATH=/app/bin:/bin"}},
			[]string{"app/bin/run", "usr/bin/env"}, []string{"usr/bin/cat"},
		},
		"relative to the folder": {
			base(spec{"app/start.sh": "cat\n"}), Start{Args: []string{"sh", "start.sh"}, Dir: "/app"}, []string{"app/start.sh", "usr/bin/cat"}, nil,
		},
		"sh -c": {
			base(nil), Start{Args: []string{"/bin/sh", "-c", "exec cat -n"}}, []string{"usr/bin/cat"}, []string{"usr/bin/env"},
		},
		"no command position": {
			base(spec{"lab/hello": "#!/bin/sh\necho env cat; P=cat\n"}), Start{Args: []string{"/lab/hello"}}, []string{"lab/hello"}, []string{"usr/bin/cat", "usr/bin/env"},
		},
		"variables and patterns": {
			base(spec{"lab/hello": "#!/bin/sh\nB=$(echo /opt/db/*/bin)\n\"$B/init\" -D /tmp\n", "opt/db/15/bin/init": program("libdb.so"), "opt/lib/libdb.so": library("libc.so.6"), "opt/db/15/bin/other": program()}),
			Start{Args: []string{"/lab/hello"}}, []string{"opt/db/15/bin/init", "opt/lib/libdb.so"}, []string{"opt/db/15/bin/other"},
		},
		"variables in variables": {
			base(spec{
				"lab/hello": "#!/bin/sh\nHOME=/opt/db\n. \"${HOME}/etc${ARCH}/paths\"\nBIN=$HOME/v1/bin\nexec \"$BIN/db\"\n", "opt/db/etc/paths": "x", "opt/db/v1/bin/db": program(),
			}), Start{Args: []string{"/lab/hello"}}, []string{"opt/db/etc/paths", "opt/db/v1/bin/db"}, nil,
		},
		"sentences": {
			base(spec{
				"lab/hello":    "#!/bin/sh\nB=/opt/db/bin\nsay 'a b'; who 'c d'\nsay \"Now: cd '$B' ; cat x | $B/tool\"\nsay 'or (cat)' \"at `date` or $(id)\" && sh -c 'cd /; env'\nX=\"true; uname -a\"\n'rm'\n\"$B/init\"\n",
				"usr/bin/date": program(), "usr/bin/id": program(), "usr/bin/who": program(), "usr/bin/uname": program(), "usr/bin/rm": program(), "opt/db/bin/tool": program(), "opt/db/bin/init": program(),
			}), Start{Args: []string{"/lab/hello"}}, []string{"usr/bin/date", "usr/bin/id", "usr/bin/who", "usr/bin/env", "usr/bin/uname", "usr/bin/rm", "opt/db/bin/init"}, []string{"usr/bin/cat", "opt/db/bin/tool"},
		},
		"an entrance": {
			base(spec{"usr/bin/run": naming("/opt/db", "%s/bin/db", "%s/none"), "opt/db/bin/db": program(), "opt/db/bin/other": program()}),
			Start{Args: []string{"run"}}, []string{"usr/bin/run", "opt/db/bin/db"}, []string{"opt/db/bin/other"},
		},
		"a library of a configuration": {
			base(spec{
				"opt/web/bin/web": naming("/etc/web.conf"), "etc/web.conf": "load /opt/web/lib/mod.so\n", "opt/web/lib/mod.so": string((&elfSpec{strings: []string{"/etc/mod/v1", "mod.ini"}, pad: 10}).bytes()),
				"etc/mod/v1/mod.ini": "x", "etc/mod/v1/other.ini": "x",
			}), Start{Args: []string{"/opt/web/bin/web"}}, []string{"opt/web/lib/mod.so", "etc/mod/v1/mod.ini"}, []string{"etc/mod/v1/other.ini"},
		},
		"constants of a program": {
			base(spec{
				"opt/db/bin/db": naming("/etc/db/db.conf", "helper", "/usr/share/db/15", "setup.sql", "no file"), "etc/db/db.conf": "include more/*.conf\nlog /var/log/x\n",
				"etc/db/more/a.conf": "a", "opt/db/bin/helper": program(), "opt/db/bin/other": program(), "usr/share/db/15/setup.sql": "create", "usr/share/db/15/other.sql": "drop",
			}), Start{Args: []string{"/opt/db/bin/db"}},
			[]string{"opt/db/bin/db", "etc/db/db.conf", "etc/db/more/a.conf", "opt/db/bin/helper", "usr/share/db/15/setup.sql"},
			[]string{"opt/db/bin/other", "usr/share/db/15/other.sql"},
		},
		"users": {
			base(spec{"usr/bin/db": string((&elfSpec{interp: "/lib64/ld.so", symbols: []string{"open", "getpwnam"}, pad: 10}).bytes())}), Start{Args: []string{"db"}}, []string{"usr/bin/db", "etc/passwd"}, nil,
		},
		"no users": {
			base(spec{"usr/bin/dash": string((&elfSpec{interp: "/lib64/ld.so", needed: []string{"libc.so.6"}, symbols: []string{"getpwnam"}, strings: []string{"/etc/profile"}, pad: 10}).bytes()), "etc/profile": "x"}),
			Start{Args: []string{"sh", "-c", "cat"}}, nil, []string{"etc/passwd", "etc/profile"},
		},
		"runpath": {
			base(spec{"opt/x/bin/x": string((&elfSpec{needed: []string{"libx.so"}, runpath: "$ORIGIN/../lib"}).bytes()), "opt/x/lib/libx.so": library(), "usr/lib/libx.so": library()}),
			Start{Args: []string{"/opt/x/bin/x"}}, []string{"opt/x/bin/x", "opt/x/lib/libx.so"}, []string{"usr/lib/libx.so"},
		},
		"python": {
			base(spec{
				"usr/bin/python3": "-> python3.11", "usr/bin/python3.11": program("libc.so.6"), "usr/lib/python3.11/encodings/__init__.py": "#\n", "usr/lib/python3.11/json/__init__.py": "from . import (decoder,\n  scanner)\nimport os\n",
				"usr/lib/python3.11/json/__pycache__/__init__.cpython-311.pyc": "mmmm\x01\x00\x00\x00hashhash", "usr/lib/python3.11/json/decoder.py": "def f():\n    import late\nimport _json\n", "usr/lib/python3.11/json/scanner.py": "if TYPE_CHECKING:\n    import late\n",
				"usr/lib/python3.11/lib-dynload/_json.cpython-311-x86_64-linux-gnu.so": library("libc.so.6"), "usr/lib/python3.11/late.py": "#\n", "usr/lib/python3.11/os.py": "#\n",
				"app/main.py": "import json as j, local\n", "app/local.py": "x = 1\n", "usr/lib/python3/dist-packages/a.pth": "import x\n",
			}), Start{Args: []string{"python3", "main.py"}, Dir: "/app"},
			[]string{
				"usr/bin/python3.11", "usr/lib/python3.11/encodings/__init__.py", "app/main.py", "app/local.py", "usr/lib/python3.11/json/__pycache__/__init__.cpython-311.pyc", "usr/lib/python3.11/json/decoder.py", "usr/lib/python3.11/json/scanner.py",
				"usr/lib/python3.11/lib-dynload/_json.cpython-311-x86_64-linux-gnu.so", "usr/lib/python3/dist-packages/a.pth",
			},
			[]string{"usr/lib/python3.11/late.py", "usr/lib/python3.11/json/__init__.py", "usr/lib/python3.11/os.py"},
		},
		"python in a script": {
			base(spec{"lab/hello": "#!/bin/sh\npython3 -c 'import a; print(1)'\n", "usr/bin/python3": "-> python3.9", "usr/bin/python3.9": program(), "usr/lib/python3.9/a.py": "#\n"}),
			Start{Args: []string{"/lab/hello"}}, []string{"usr/bin/python3.9", "usr/lib/python3.9/a.py"}, nil,
		},
		"shell form": {
			base(spec{
				"usr/bin/python3.11": program(), "usr/bin/node": program(), "usr/lib/python3/dist-packages/web/__init__.py": "#\n", "usr/lib/python3/dist-packages/web/__main__.py": "#\n",
				"app/server.js": "require('./b')\n", "app/b.js": "//\n",
			}), Start{Args: []string{"/bin/sh", "-c", "node server.js & python3.11 -m web 80"}, Dir: "/app"},
			[]string{"app/server.js", "app/b.js", "usr/lib/python3/dist-packages/web/__init__.py", "usr/lib/python3/dist-packages/web/__main__.py"}, nil,
		},
		"virtual environment": {
			base(spec{
				"usr/bin/python3.9": program(), "usr/lib/python3.9/os.py": "#\n", "venv/bin/python": "-> ../../usr/bin/python3.9", "venv/pyvenv.cfg": "home = /usr/bin\n",
				"venv/lib/python3.9/site-packages/app.py": "#\n", "lab/hello": "#!/venv/bin/python\nimport app\n",
			}), Start{Args: []string{"/lab/hello"}}, []string{"usr/bin/python3.9", "usr/lib/python3.9/os.py", "venv/lib/python3.9/site-packages/app.py"}, nil,
		},
		"perl": {
			base(spec{"lab/hello": "#!/usr/bin/perl\nuse Foo::Bar;\n", "usr/bin/perl": program(), "usr/share/perl5/Foo/Bar.pm": "require Baz;\n=head1 X\n\n use Doc;\n\n=cut\n1;\n__END__\nuse Doc;\n", "usr/share/perl5/Baz.pm": "#\n", "usr/share/perl5/Doc.pm": "#\n", "usr/share/perl/5.36/strict.pm": "#\n"}),
			Start{Args: []string{"/lab/hello"}}, []string{"lab/hello", "usr/share/perl5/Foo/Bar.pm", "usr/share/perl5/Baz.pm", "usr/share/perl/5.36/strict.pm"}, []string{"usr/share/perl5/Doc.pm"},
		},
		"node": {
			base(spec{
				"app/bin/server.js": "#!/usr/bin/env node\nconst a = require('./a'), b = require(\"b\"); require('fs')\n", "usr/bin/node": program(), "app/bin/a.js": "import c from '@s/c'\n",
				"app/node_modules/b/package.json": `{"main": "lib/main"}`, "app/node_modules/b/lib/main.js": "#\n", "app/node_modules/@s/c/index.js": "#\n",
			}), Start{Args: []string{"/app/bin/server.js"}},
			[]string{"app/bin/server.js", "usr/bin/node", "app/bin/a.js", "app/node_modules/b/package.json", "app/node_modules/b/lib/main.js", "app/node_modules/@s/c/index.js"}, nil,
		},
		"ruby": {
			base(spec{"lab/hello": "#!/bin/sh\nruby -rjson -e 'puts 1'\n", "usr/bin/ruby": program(), "usr/lib/ruby/3.1.0/json.rb": "require 'json/ext'\n", "usr/lib/ruby/3.1.0/json/ext.rb": "#\n"}),
			Start{Args: []string{"/lab/hello"}}, []string{"usr/lib/ruby/3.1.0/json.rb", "usr/lib/ruby/3.1.0/json/ext.rb"}, nil,
		},
		"R": {
			base(spec{
				"lab/hello": "#!/bin/sh\nRscript -e 'library(own); other::f()'\n", "usr/bin/Rscript": string((&elfSpec{interp: "/lib64/ld.so", strings: []string{"%s/bin/R", "/usr/lib/R"}, written: true, pad: 10}).bytes()),
				"usr/lib/R/bin/R": "#!/bin/sh\nR_HOME=/usr/lib/R\nexec \"${R_HOME}/bin/exec${R_ARCH}/R\"\n", "usr/lib/R/bin/exec/R": program("libR.so"), "usr/lib/R/lib/libR.so": library("libc.so.6"),
				"usr/lib/R/library/base/R/base.rdb": "base", "usr/lib/R/etc/Renviron": "-> ../../../../etc/R/Renviron", "etc/R/Renviron": "x",
				"usr/lib/R/library/stats/DESCRIPTION": "Package: stats\nImports: graphics\n", "usr/lib/R/library/stats/R/stats.rdb": "stats", "usr/lib/R/library/stats/libs/stats.so": library("libc.so.6"), "usr/lib/R/library/stats/html/R.css": "x",
				"usr/lib/R/library/grid/DESCRIPTION": "Package: grid\n", "usr/lib/R/library/grid/R/grid.rdb": "grid",
				"usr/lib/R/site-library/own/DESCRIPTION": "Package: own\nDepends: R (>= 4.0),\n  needed (>= 1)\nSuggests: grid\n", "usr/lib/R/site-library/own/R/own.rdx": "own",
				"usr/local/lib/R/site-library/needed/DESCRIPTION": "Package: needed\nImports: own\n", "usr/local/lib/R/site-library/needed/Meta/package.rds": "needed",
				"usr/lib/R/site-library/other/DESCRIPTION": "Package: other\n", "usr/lib/R/site-library/other/data/Rdata.rdx": "other",
			}), Start{Args: []string{"/lab/hello"}},
			[]string{
				"usr/bin/Rscript", "usr/lib/R/bin/R", "usr/lib/R/bin/exec/R", "usr/lib/R/lib/libR.so", "usr/lib/R/library/base/R/base.rdb", "etc/R/Renviron", "usr/lib/R/library/stats/R/stats.rdb", "usr/lib/R/library/stats/libs/stats.so",
				"usr/lib/R/site-library/own/R/own.rdx", "usr/local/lib/R/site-library/needed/Meta/package.rds", "usr/lib/R/site-library/other/data/Rdata.rdx",
			},
			[]string{"usr/lib/R/library/grid/R/grid.rdb", "usr/lib/R/library/stats/html/R.css"},
		},
		"Erlang": {
			base(spec{
				"usr/bin/erl": "#!/bin/sh\nROOTDIR=/usr/lib/erlang\nBINDIR=$ROOTDIR/erts-13.1/bin\nexec $BINDIR/erlexec \"$@\"\n", "usr/lib/erlang/erts-13.1/bin/erlexec": program(), "usr/lib/erlang/erts-13.1/bin/beam.smp": program("libc.so.6"),
				"usr/lib/erlang/bin/start.boot": bootScript, "usr/lib/erlang/lib/kernel-8.5/ebin/code.beam": "code", "usr/lib/erlang/lib/kernel-8.5/ebin/global.beam": "global", "usr/lib/erlang/lib/kernel-8.5/ebin/auth.beam": "auth",
				"usr/lib/erlang/lib/stdlib-4.2/ebin/ets.beam": "ets",
			}), Start{Args: []string{"erl", "-noshell"}},
			[]string{
				"usr/bin/erl", "usr/lib/erlang/erts-13.1/bin/beam.smp", "usr/lib/erlang/bin/start.boot", "usr/lib/erlang/lib/kernel-8.5/ebin/code.beam", "usr/lib/erlang/lib/stdlib-4.2/ebin/ets.beam",
				"usr/lib/erlang/lib/kernel-8.5/ebin/global.beam",
			},
			[]string{"usr/lib/erlang/lib/kernel-8.5/ebin/auth.beam"},
		},
		"C": {
			base(spec{
				"lab/hello": "#!/bin/sh\nprintf '#include <stdio.h>\\nint main(){}' > x.c; gcc -o x x.c\n", "usr/bin/gcc": "-> x86_64-linux-gnu-gcc-12", "usr/bin/x86_64-linux-gnu-gcc-12": program("libc.so.6"),
				"usr/bin/cc1": program(), "usr/bin/as": program(), "usr/bin/ld": program(), "usr/bin/clang": program(), "usr/lib/gcc/x86_64-linux-gnu/12/libgcc.a": strings.Repeat("x", 1<<20),
				"usr/include/stdio.h": "# include <bits/stdio.h>\n", "usr/include/x86_64-linux-gnu/bits/stdio.h": "x", "usr/include/stdlib.h": "x",
			}), Start{Args: []string{"/lab/hello"}},
			[]string{"usr/bin/x86_64-linux-gnu-gcc-12", "usr/bin/cc1", "usr/bin/as", "usr/bin/ld", "usr/lib/gcc/x86_64-linux-gnu/12/libgcc.a", "usr/include/stdio.h", "usr/include/x86_64-linux-gnu/bits/stdio.h"},
			[]string{"usr/bin/clang", "usr/include/stdlib.h"},
		},
		"java": {
			base(spec{"usr/bin/java": "-> /jvm/bin/java", "jvm/bin/java": program(), "jvm/lib/server/libjvm.so": library("libc.so.6"), "jvm/lib/modules": "modules"}),
			Start{Args: []string{"java", "-version"}}, []string{"jvm/bin/java", "jvm/lib/server/libjvm.so", "jvm/lib/modules"}, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := paths(t, c.files, c.start)
			for _, w := range c.want {
				if !slices.Contains(got, w) {
					t.Errorf("%s is not there: %q", w, got)
				}
			}
			for _, w := range c.not {
				if slices.Contains(got, w) {
					t.Errorf("%s is there: %q", w, got)
				}
			}
			if again := paths(t, c.files, c.start); !slices.Equal(got, again) {
				t.Errorf("another time %q, not %q", again, got)
			}
		})
	}
}

// TestLibraries: of what only libraries need, what loaders read is predicted, and half if it runs
// code when it is loaded; all of it if the program of a later command needs it. Nor is more
// predicted of what a large library of an extension needs, and of a smaller one that nothing but the program needs, and that runs no code. Of tables
// for exceptions their ends are.
func TestLibraries(t *testing.T) {
	const pad = 2 << 20
	large := func(e elfSpec) string {
		e.pad = pad
		return string(e.bytes())
	}
	small := func(e elfSpec) string {
		e.pad = pad / 2
		return string(e.bytes())
	}
	s := base(spec{
		"usr/bin/a": program("libown.so", "libidle.so", "libshared.so", "libchooses.so"), "usr/bin/b": program("liblater.so"),
		"usr/lib/libown.so": large(elfSpec{needed: []string{"libdeep.so", "libbegins.so", "liblater.so", "libshared.so"}}), "usr/lib/libidle.so": small(elfSpec{}),
		"usr/lib/libshared.so": small(elfSpec{}), "usr/lib/libchooses.so": small(elfSpec{chooses: true}),
		"usr/bin/c": naming("/etc/c.conf"), "etc/c.conf": "load /usr/lib/extension.so", "usr/lib/extension.so": library("libhuge.so"),
		"usr/lib/libhuge.so": string((&elfSpec{needed: []string{"libsecond.so"}, pad: wholeObject + 1}).bytes()), "usr/lib/libsecond.so": large(elfSpec{}),
		"usr/lib/libdeep.so": large(elfSpec{}), "usr/lib/libbegins.so": large(elfSpec{begins: true}), "usr/lib/liblater.so": large(elfSpec{}),
	})
	ranges, err := Reads(context.Background(), s.fs(), Start{Args: []string{"sh", "-c", "a; b; c"}})
	if err != nil {
		t.Fatal(err)
	}
	frames := make(map[string]map[int64]bool)
	for _, r := range ranges {
		if frames[r.Path] == nil {
			frames[r.Path] = make(map[int64]bool)
		}
		for at := r.Off / objectHead; at*objectHead < r.Off+r.Length; at++ {
			frames[r.Path][at] = true
		}
	}
	for name, percent := range map[string][2]int{
		"libown": {100, 100}, "libdeep": {10, 25}, "libbegins": {50, 65}, "liblater": {100, 100}, "libidle": {10, 50}, "libshared": {100, 100}, "libchooses": {100, 100}, "libsecond": {10, 25},
	} {
		name = "usr/lib/" + name + ".so"
		all := (len(s[name]) + objectHead - 1) / objectHead
		if got := len(frames[name]) * 100 / all; got < percent[0] || got > percent[1] {
			t.Errorf("%s: %d %% are predicted, want %d to %d", name, got, percent[0], percent[1])
		}
	}

	p := &predictor{tree: newTree(context.Background(), spec{"x": strings.Repeat("x", 4<<20)}.fs()), whole: make(map[string]bool)}
	f := p.file("x")
	p.rest(&object{file: f, exceptions: 1 << 20, segments: []segment{{off: 512 << 10, size: 1 << 20}}})
	want := []Range{{"x", 1472 << 10, 64 << 10}, {"x", 512 << 10, 576 << 10}}
	if !slices.Equal(p.ranges, want) {
		t.Errorf("tables for exceptions: %v, want %v", p.ranges, want)
	}
}

// TestSizes: programs and files that are named are read whole up to a bound, but for the end of long
// code.
func TestSizes(t *testing.T) {
	const mib = 1 << 20
	s := base(spec{
		"usr/bin/server": string((&elfSpec{interp: "/lib64/ld.so", strings: []string{"the last"}, pad: 25 * mib}).bytes()), "usr/bin/huge": string((&elfSpec{interp: "/lib64/ld.so", pad: wholeProgram}).bytes()),
		"srv/fill.sql": strings.Repeat("x", 3*mib), "srv/dump.sql": strings.Repeat("x", maxPlain+1),
	})
	ranges, err := Reads(context.Background(), s.fs(), Start{Args: []string{"sh", "-c", "cat /srv/*; server; huge"}})
	if err != nil {
		t.Fatal(err)
	}
	sizes := make(map[string]int64)
	for _, r := range ranges {
		sizes[r.Path] += r.Length
	}
	for name, most := range map[string][2]int64{"usr/bin/server": {15 * mib, 16 * mib}, "usr/bin/huge": {1, mib}, "srv/fill.sql": {3 * mib, 3 * mib}, "srv/dump.sql": {0, 0}} {
		if got := sizes[name]; got < most[0] || got > most[1] {
			t.Errorf("%s: %d bytes are predicted, want %d to %d", name, got, most[0], most[1])
		}
	}
}

// TestTables: of large and dense tables of interpreters, and of libraries that these need, the inside
// is not predicted, unless the program imports what uses it; that of sparse ones is, and all of
// texts and of other programs.
func TestTables(t *testing.T) {
	const size = 512 << 10
	dense, text := strings.Repeat("\x01\x02\x03\x00", size/4), strings.Repeat("text of a program\x00", size/18)
	sparse := strings.Repeat("\x01\x00\x00\x00", size/4)
	object := func(e elfSpec, constants string) string {
		e.data = []byte("before the table\x00" + constants + "behind the table\x00")
		return string(e.bytes())
	}
	for _, c := range []struct {
		program, constants, main string
		own, math                bool // the inside of the program's is predicted, and the library's
	}{
		{"python3.11", dense, "import os\n", false, false},
		{"python3.11", dense, "from math import log\n", false, true},
		{"python3.11", sparse, "", true, true},
		{"python3.11", text, "", true, true},
		{"perl", dense, "", false, false},
		{"dash", dense, "", true, true},
		{"server", dense, "", true, true},
	} {
		const main, math = "app/main", "usr/lib/libm.so.6"
		own := "usr/bin/" + c.program
		s := base(spec{own: object(elfSpec{needed: []string{"libm.so.6"}}, c.constants), math: object(elfSpec{begins: true}, c.constants), main: c.main})
		ranges, err := Reads(context.Background(), s.fs(), Start{Args: []string{"/" + own, "/" + main}})
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]bool{own: c.own, math: c.math} {
			predicted := func(at int) bool {
				return slices.ContainsFunc(ranges, func(r Range) bool { return r.Path == name && r.Off <= int64(at) && int64(at) < r.Off+r.Length })
			}
			begin, end := strings.Index(s[name], "before the table"), len(s[name])-1
			if !predicted(begin) || !predicted(begin+aroundFault) || !predicted(end-aroundFault) || !predicted(end) {
				t.Errorf("%s, %q: the ends of %s are not predicted", c.program, c.main, name)
			}
			if got := predicted((begin + end) / 2); got != want {
				t.Errorf("%s, %q, constants %.4q: the inside of %s is predicted: %v, want %v", c.program, c.main, c.constants, name, got, want)
			}
		}
	}
}

// TestOrder: a script comes before its interpreter, and that before what it runs.
func TestOrder(t *testing.T) {
	got := paths(t, base(spec{"lab/hello": "#!/bin/sh\ncat\n"}), Start{Args: []string{"/lab/hello"}})
	if want := slices.Concat([]string{"lab/hello"}, common, []string{"usr/bin/cat"}); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestNothing(t *testing.T) {
	for _, args := range [][]string{nil, {"/no/such"}, {"/etc/passwd"}, {""}, {"/loop/a"}} {
		s := base(spec{"loop/a": "-> b", "loop/b": "-> a"})
		if r, err := Reads(context.Background(), s.fs(), Start{Args: args}); !errors.Is(err, ErrNothing) {
			t.Errorf("%q: %v, %v", args, r, err)
		}
	}
}

// TestEnds: the caller's end is an error, so that half a prediction is never kept; and so
// are those of whatever holds the files.
func TestEnds(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	gone := errors.New("no time")
	cancel(gone)
	if _, err := Reads(ctx, base(nil).fs(), Start{Args: []string{"/bin/sh"}}); !errors.Is(err, gone) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := Reads(context.Background(), broken{base(nil).fs()}, Start{Args: []string{"/bin/sh"}}); !errors.Is(err, errBroken) {
		t.Errorf("broken: %v", err)
	}
}

var errBroken = errors.New("no answer")

type broken struct{ fstest.MapFS }

func (b broken) Open(name string) (fs.File, error) {
	if strings.HasSuffix(name, "ld.so") {
		return nil, errBroken
	}
	return b.MapFS.Open(name)
}
