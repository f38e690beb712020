package predict

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"testing"
	"testing/fstest"
)

// listedFS counts how often directories are opened; those of broken cannot be read.
type listedFS struct {
	fstest.MapFS
	opened map[string]int
	broken string
}

func (l listedFS) Open(name string) (fs.File, error) {
	f, err := l.MapFS.Open(name)
	if err != nil {
		return nil, err
	}
	if _, ok := f.(fs.ReadDirFile); ok {
		if l.opened[name]++; name == l.broken {
			return nil, errBroken
		}
	}
	return f, nil
}

// deafFS is listedFS that answers no questions below broken at all.
type deafFS struct{ listedFS }

func (d deafFS) Lstat(name string) (fs.FileInfo, error) {
	if path.Dir(name) == d.broken {
		return nil, errBroken
	}
	return d.MapFS.Lstat(name)
}

// TestUnread: a directory that cannot be read at all is an error of the file system.
func TestUnread(t *testing.T) {
	files := deafFS{listedFS{base(spec{"lab/hello": "#!/bin/sh\ncat /d/y\n", "d/y": "y"}).fs(), make(map[string]int), "d"}}
	if _, err := Reads(context.Background(), files, Start{Args: []string{"/lab/hello"}}); !errors.Is(err, errBroken) {
		t.Errorf("%v, want %v", err, errBroken)
	}
}

// TestFolders: a directory is read once, and what is in one that cannot be read, or has too
// many names, is found name by name.
func TestFolders(t *testing.T) {
	many := base(spec{"lab/hello": "#!/bin/sh\ncat /many/x /d/y /d/none\n", "many/x": "x", "d/y": "y", "d/z": "z"})
	for i := range maxListed {
		many[fmt.Sprintf("many/%d", i)] = ""
	}
	for _, broken := range []string{"", "d"} {
		files := listedFS{many.fs(), make(map[string]int), broken}
		ranges, err := Reads(context.Background(), files, Start{Args: []string{"/lab/hello"}})
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"many/x", "d/y"} {
			if !slices.ContainsFunc(ranges, func(r Range) bool { return r.Path == want }) {
				t.Errorf("broken %q: %s is not predicted", broken, want)
			}
		}
		for dir, n := range files.opened {
			if n > 1 {
				t.Errorf("broken %q: %s was opened %d times", broken, dir, n)
			}
		}
		tr := newTree(context.Background(), files)
		if names := tr.list("many"); names != nil {
			t.Errorf("%d names of a very large folder", len(names))
		}
		if want := []string{"y", "z"}; broken == "" && !slices.Equal(tr.list("d"), want) {
			t.Errorf("list: %q, want %q", tr.list("d"), want)
		}
		if !tr.begun("many", "none") || tr.begun("d", "none") == (broken == "") {
			t.Error("begun: a folder that was not read may have anything, another has not")
		}
	}
}

// TestNamesLeft: of a folder no more names are read than may still be looked at.
func TestNamesLeft(t *testing.T) {
	tr := newTree(context.Background(), spec{"d/a": "", "d/b": "", "d/c": ""}.fs())
	tr.names = maxNames - 2
	if names := tr.list("d"); names != nil || tr.names > maxNames+2 {
		t.Errorf("%q of a folder, %d names in all", names, tr.names)
	}
	if tr.file("d/a") == nil {
		t.Error("a file is not found by its name")
	}
}

// TestLongWay: what is not found for the links that lead to it is found by a shorter way.
func TestLongWay(t *testing.T) {
	s := spec{"end": "x"}
	to := "end"
	for i := range maxLinks + 3 {
		name := fmt.Sprintf("l%02d", i)
		s[name], to = "-> "+to, name
	}
	tr := newTree(context.Background(), s.fs())
	if tr.file(to) != nil {
		t.Errorf("%d links were followed", maxLinks+3)
	}
	if tr.file("l00") == nil || tr.file(fmt.Sprintf("l%02d", maxLinks-1)) == nil {
		t.Error("what fewer links lead to is not found")
	}
	if tr.file(to) != nil {
		t.Error("parts of a long way make it shorter")
	}
}
