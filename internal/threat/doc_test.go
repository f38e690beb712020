package threat

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../.."

var (
	named   = regexp.MustCompile("`([a-z0-9]+)\\.((?:Test|Fuzz)[A-Za-z0-9]+)`")
	scripts = regexp.MustCompile("`script/([a-z]+\\.txt)`")
	defined = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Za-z0-9]+)\(`)
	clause  = regexp.MustCompile(`(?m)^package ([a-z0-9_]+)$`)
)

// TestNamedTestsExist: the tests and scripts that the threat model names are there.
func TestNamedTestsExist(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "doc/threat-model.md"))
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	err = filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		pkg := strings.TrimSuffix(string(clause.FindSubmatch(source)[1]), "_test")
		for _, m := range defined.FindAllSubmatch(source, -1) {
			have[pkg+"."+string(m[1])] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, m := range named.FindAllSubmatch(text, -1) {
		if n++; !have[string(m[1])+"."+string(m[2])] {
			t.Errorf("there is no test %s.%s", m[1], m[2])
		}
	}
	for _, m := range scripts.FindAllSubmatch(text, -1) {
		if n++; exists(filepath.Join(root, "cmd/rivulet/testdata/script", string(m[1]))) != nil {
			t.Errorf("there is no script %s", m[1])
		}
	}
	if n < 40 {
		t.Errorf("the threat model names %d tests only", n)
	}
}

func exists(path string) error {
	_, err := os.Stat(path)
	return err
}
