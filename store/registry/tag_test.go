package registry

import (
	"regexp"
	"strings"
	"testing"

	"github.com/rivuletfs/rivulet/origin"
)

// tagGrammar is that of the OCI distribution specification, without capitals.
var tagGrammar = regexp.MustCompile(`^[a-z0-9_][a-z0-9._-]{0,127}$`)

func TestPointerTags(t *testing.T) {
	prefix := generationPrefix(1<<32 - 1)
	long := strings.Repeat("Long/", 100) + "x"
	seen := map[string]string{}
	for name, plain := range map[string]bool{
		"a": true, "A": true, "a/b": true, "a_2fb": true, "a~b": true,
		"names/docker.io/library/python:3.12":                                    true,
		"digests/" + strings.Repeat("0a", 32):                                    true,
		"segments/" + strings.Repeat("0a", 32) + "/1/" + strings.Repeat("0", 32): false,
		long:                     false,
		long + "y":               false,
		strings.Repeat("Z", 512): false,
	} {
		tag := pointerTag(prefix, name)
		if !tagGrammar.MatchString(tag) || !strings.HasPrefix(tag, prefix) {
			t.Errorf("%.40q: tag %q", name, tag)
		}
		if other := seen[tag]; other != "" {
			t.Errorf("%.40q and %.40q share tag %q", name, other, tag)
		}
		seen[tag] = name
		got, ok := pointerName(prefix, tag)
		if ok != plain || plain && got != name {
			t.Errorf("%.40q: tag %q says %q, %v; want a plain one: %v", name, tag, got, ok, plain)
		}
		if !plain {
			for _, start := range []string{"", name[:1], name[:8], name} {
				if !mayBegin(prefix, tag, start) {
					t.Errorf("tag %q seems not to begin with %.40q", tag, start)
				}
			}
			if mayBegin(prefix, tag, "names/") || mayBegin(prefix, tag, "q") || mayBegin(prefix, tag, name[:8]+"~") {
				t.Errorf("tag %q seems to begin with what it does not", tag)
			}
		}
	}
	for _, tag := range []string{prefix + "p-", prefix + "p-_", prefix + "p-_4", prefix + "p-_zz", prefix + "p-_61", prefix + "p-A", prefix + "p-a_2f", "latest", "rivulet-p-a"} {
		if name, ok := pointerName(prefix, tag); ok {
			t.Errorf("tag %q says pointer %q", tag, name)
		}
	}
}

func TestGenerationOfTag(t *testing.T) {
	for tag, want := range map[string]origin.GenerationID{
		"rivulet-g1-p-a": 1, "rivulet-g4294967295-k-0": 1<<32 - 1,
		"rivulet-g01-p-a": 0, "rivulet-g0-p-a": 0, "rivulet-g1": 0, "rivulet-p-g1-": 0, "g1-p-a": 0, "latest": 0,
	} {
		if id, ok := generationOf(tag); ok != (want != 0) || ok && id != want {
			t.Errorf("tag %q is of generation %v, %v; want %v", tag, id, ok, want)
		}
	}
}

func FuzzPointerTag(f *testing.F) {
	f.Add("names/a:b", "names/a:b2")
	f.Add(strings.Repeat("x", 300), "x")
	f.Fuzz(func(t *testing.T, a, b string) {
		if origin.ValidName(a) != nil || origin.ValidName(b) != nil {
			return
		}
		tag := pointerTag(tagPrefix, a)
		if !tagGrammar.MatchString(tag) {
			t.Errorf("%q: tag %q", a, tag)
		}
		if a != b && tag == pointerTag(tagPrefix, b) {
			t.Errorf("%q and %q share tag %q", a, b, tag)
		}
		if name, ok := pointerName(tagPrefix, tag); ok && name != a {
			t.Errorf("%q: tag %q says %q", a, tag, name)
		}
	})
}
