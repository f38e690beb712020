package predict

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestHostile: images that are made to be followed for ever are not.
func TestHostile(t *testing.T) {
	loops := base(spec{"lab/a": "#!/lab/b\n/lab/a /lab/b", "lab/b": "#!/lab/a\n/lab/*"})
	many := base(spec{"lab/hello": "#!/bin/sh\n" + strings.Repeat("/many/*/*/*\n", 1000)})
	for i := range 30 {
		for j := range 30 {
			many[fmt.Sprintf("many/%d/%d/x.conf", i, j)] = "include /many/*/*/*.conf\n"
		}
	}
	chain := base(spec{"usr/bin/python3.11": program(), "m.py": "import m0\n"})
	for i := range 3000 {
		chain[fmt.Sprintf("m%d.py", i)] = fmt.Sprintf("import m%d, m%d, m%d\n", i+1, i+2, i+3)
	}
	links := base(spec{})
	for i := range 100 {
		links[fmt.Sprintf("l%d", i)] = fmt.Sprintf("-> l%d/../l%d", i+1, i+1)
	}
	long := base(spec{"usr/bin/gcc": program(), "usr/lib/R/bin/exec/R": program()})
	var missing strings.Builder
	for i := range maxAsked {
		fmt.Fprintf(&missing, "#include <none%d.h>\n", i)
	}
	for i := range maxModules {
		long[fmt.Sprintf("h/%d.h", i)] = fmt.Sprintf("#include \"%d.h\"\n%s", i+1, missing.String())
	}
	for i := range 60 {
		long[fmt.Sprintf("usr/lib/gcc/x/%d/include/x", i)] = ""
		long[fmt.Sprintf("r/%d.R", i)] = strings.Repeat("a", maxText)
	}
	for name, c := range map[string]struct {
		files spec
		args  []string
	}{
		"headers": {long, []string{"gcc", "/h/0.h"}}, "words of R": {long, []string{"/usr/lib/R/bin/exec/R", "/r/0.R", "/r/1.R", "/r/2.R"}}, "R that nobody runs": {long, []string{"/bin/sh", "-c", "cat /r/*.R"}},
		"loops": {loops, []string{"/lab/a"}}, "patterns": {many, []string{"/lab/hello"}}, "chain": {chain, []string{"python3.11", "/m.py"}},
		"links": {links, []string{"/l0"}}, "long words": {base(nil), []string{"/bin/sh", "-c", " " + strings.Repeat("/", 1<<20) + strings.Repeat("x", 1<<20)}},
	} {
		begun := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // as publishers have a bound
		r, err := Reads(ctx, c.files.fs(), Start{Args: c.args})
		cancel()
		if err != nil && !errors.Is(err, ErrNothing) && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
		if len(r) > 2*maxRanges || time.Since(begun) > time.Minute {
			t.Errorf("%s: %d ranges in %v", name, len(r), time.Since(begun))
		}
	}
}

// TestBootModules: no byte of a boot script that is another one, and no cut, leads astray.
func TestBootModules(t *testing.T) {
	if got, want := bootModules([]byte(bootScript)), []string{"code", "ets"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	for n := range bootScript {
		bootModules([]byte(bootScript[:n]))
		for _, v := range []byte{0, 1, 'd', 'w', 'l', 0xff} {
			b := []byte(bootScript)
			b[n] = v
			if got := bootModules(b); len(got) > maxModules {
				t.Errorf("%d modules", len(got))
			}
		}
	}
}

// FuzzReads follows hostile scripts and programs in an image that has what they might name.
func FuzzReads(f *testing.F) {
	f.Add([]byte("#!/bin/sh\ncat /etc/*; exec \"$B/x\" ${A:-/etc} `env`\n"), "/lab/x")
	f.Add([]byte("#!/usr/bin/python3.11\nfrom . import a, b\nfrom x import (\n y,\n"), "x")
	f.Add([]byte("#!/usr/bin/perl\nuse A::B; =cut\n"), "-Mx")
	f.Add([]byte("#!/usr/bin/node\nrequire('../x')\n"), "..")
	f.Add((&elfSpec{interp: "/lib64/ld.so", needed: []string{"libc.so.6"}, runpath: "$ORIGIN", strings: []string{"/etc/passwd", "cat"}}).bytes(), "")
	f.Add((&elfSpec{narrow: true, big: true, needed: []string{"../x"}}).bytes(), "a b\n/lab/*")
	f.Add([]byte("#!/bin/sh\nsay \"a; `b` $(c\"; X=${Y}/z gcc x.c; /e/bin/erlexec; /R/bin/exec/R -e 'library(x); y::z'\nImports: x (>= 1),\n y\n#include <x>\n"), "")
	f.Add([]byte(bootScript), "")
	f.Fuzz(func(t *testing.T, b []byte, arg string) {
		if len(b) > 1<<16 || len(arg) > 1<<12 {
			return
		}
		s := base(spec{"lab/x": string(b), "usr/bin/python3.11": program(), "usr/bin/perl": program(), "usr/bin/node": program(), "usr/lib/python3.11/x.py": string(b), "usr/share/perl5/A/B.pm": string(b),
			"usr/bin/gcc": program(), "usr/include/x": string(b), "e/bin/erlexec": program(), "bin/start.boot": string(b), "R/bin/exec/R": program(), "R/library/x/DESCRIPTION": string(b)})
		ranges, err := Reads(context.Background(), s.fs(), Start{Args: []string{"/lab/x", arg}, Dir: arg})
		if err != nil && !errors.Is(err, ErrNothing) {
			t.Fatal(err)
		}
		for _, r := range ranges {
			if data, ok := s[r.Path]; !ok || r.Off < 0 || r.Length <= 0 || r.Off+r.Length > int64(len(data)) {
				t.Errorf("range %+v of %d bytes", r, len(data))
			}
		}
	})
}
