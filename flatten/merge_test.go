package flatten

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

// showTree writes a tree in one line a node: path, home, kind, mode, target,
// data, and for further names of an inode the first one.
func showTree(t testing.TB, tree *Tree, layers []*Layer) string {
	t.Helper()
	var b strings.Builder
	err := tree.Walk(func(path string, n *Node) error {
		in := n.Inode
		fmt.Fprintf(&b, "%s %s", path, showAttr(&in.Attr))
		if in.Kind == File {
			data := make([]byte, in.Size)
			if _, err := layers[in.Layer].Data.ReadAt(data, layers[in.Layer].Entries[in.Entry].Data); err != nil && err != io.EOF {
				return err
			}
			fmt.Fprintf(&b, " %q", data)
		}
		if in.First != n {
			b.WriteString(" =" + in.First.Path())
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// checkTree checks what the contract promises of a Tree.
func checkTree(t testing.TB, tree *Tree, layers []*Layer) {
	t.Helper()
	links := make(map[*Inode]int)
	homes := make(map[[2]int]string)
	err := tree.Walk(func(path string, n *Node) error {
		if n.Path() != path || tree.Lookup(path) != n {
			t.Fatalf("%q: Path %q, Lookup %p of %p", path, n.Path(), tree.Lookup(path), n)
		}
		if in := n.Inode; (in.Entry < 0) != (in.Layer < 0) || in.Entry < 0 && in.Kind != Dir {
			t.Fatalf("%q: layer %d entry %d", path, in.Layer, in.Entry)
		} else if in.Entry >= 0 && layers[in.Layer].Entries[in.Entry].Kind != in.Kind {
			t.Fatalf("%q: kind %d is not its entry's", path, in.Kind)
		}
		if n.HomeLayer >= 0 {
			home := [2]int{n.HomeLayer, n.HomeRank}
			if other, ok := homes[home]; ok {
				t.Fatalf("%q and %q have home %v", path, other, home)
			}
			homes[home] = path
		}
		links[n.Inode]++
		if n.Inode.Kind == Dir {
			links[n.Inode]++
			links[n.Parent.Inode]++
		}
		for i, c := range n.Children {
			if c.Parent != n || i > 0 && n.Children[i-1].Name >= c.Name || n.Inode.Kind != Dir {
				t.Fatalf("%q: child %q", path, c.Name)
			}
		}
		if first := n.Inode.First; n.before(first) || first.Inode != n.Inode {
			t.Fatalf("%q: first is %q", path, first.Path())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	links[tree.Root.Inode]-- // the root is its own parent, but no name in itself
	for in, n := range links {
		if in.Links != n {
			t.Fatalf("%q: %d links, counted %d", in.First.Path(), in.Links, n)
		}
	}
}

func mustMerge(t testing.TB, layers ...*Layer) *Tree {
	t.Helper()
	tree, err := Merge(layers)
	if err != nil {
		t.Fatal(err)
	}
	checkTree(t, tree, layers)
	return tree
}

const root = ". dir 0755"

func TestMergeRules(t *testing.T) {
	type layer = []item
	for _, tc := range []struct {
		name   string
		layers []layer
		want   string
	}{
		{"no layer", nil, lines(root)},
		{"whiteout and return", []layer{{file("a", "1")}, {file(".wh.a", "")}, {file("a", "3")}}, lines(root, `a file 0644 "3"`)},
		{"whiteout of a directory", []layer{{file("d/e/f", "1"), file("g", "")}, {file(".wh.d", "")}}, lines(root, `g file 0644 ""`)},
		{"whiteout of nothing makes its parent", []layer{{file("d/.wh.x", "")}}, lines(root, "d dir 0755")},
		{"whiteout spares its layer", []layer{{file("d/old", "1")}, {file("d/new", "2"), file(".wh.d", "")}}, lines(
			root, "d dir 0755", `d/new file 0644 "2"`)},
		{"opaque", []layer{{dir("d", 0o700), file("d/old", "1"), file("d/e/f", "")}, {file("d/new", "2"), file("d/.wh..wh..opq", "")}}, lines(
			root, "d dir 0700", `d/new file 0644 "2"`)},
		{"opaque root", []layer{{file("a", "1")}, {file("b", "2"), file(".wh..wh..opq", "")}}, lines(root, `b file 0644 "2"`)},
		{"directories merge, later attributes", []layer{{dir("./", 0o711), dir("d", 0o700), file("d/a", "1")}, {dir("d", 0o1777), file("d/b", "2")}}, lines(
			". dir 0711", "d dir 1777", `d/a file 0644 "1"`, `d/b file 0644 "2"`)},
		{"implied directories change nothing", []layer{{dir("d", 0o700)}, {file("d/b", "2")}}, lines(root, "d dir 0700", `d/b file 0644 "2"`)},
		{"file, directory, file", []layer{{file("a", "1")}, {dir("a", 0o700), file("a/b", "2")}, {file("a", "3")}}, lines(root, `a file 0644 "3"`)},
		{"directory, file, directory", []layer{{file("a/x", "1")}, {file("a", "2")}, {dir("a", 0o700), file("a/y", "3")}}, lines(
			root, "a dir 0700", `a/y file 0644 "3"`)},
		{"implied directory over a file", []layer{{file("a", "1")}, {file("a/b", "2")}}, lines(root, "a dir 0755", `a/b file 0644 "2"`)},
		{"directory over a symlink", []layer{{symlink("l", "d"), file("d/x", "1")}, {dir("l", 0o700), file("l/y", "2")}}, lines(
			root, "d dir 0755", `d/x file 0644 "1"`, "l dir 0700", `l/y file 0644 "2"`)},
		{"parent is a symlink below", []layer{{symlink("l", "/d"), dir("d", 0o700)}, {file("l/e/f", "2")}}, lines(
			root, "d dir 0700", "d/e dir 0755", `d/e/f file 0644 "2"`, "l symlink 0777 ->/d")},
		{"parent is a symlink of the layer", []layer{{symlink("l", "z/d"), file("l/f", "2"), dir("z/d", 0o700)}}, lines(
			root, "l symlink 0777 ->z/d", "z dir 0755", "z/d dir 0700", `z/d/f file 0644 "2"`)},
		{"parent symlink cannot leave the root", []layer{{symlink("l", "../../../etc"), file("l/f", "2")}}, lines(
			root, "etc dir 0755", `etc/f file 0644 "2"`, "l symlink 0777 ->../../../etc")},
		{"dangling parent, with dot dot", []layer{{symlink("d/l", "no/../x/y"), file("d/l/f", "2")}}, lines(
			root, "d dir 0755", "d/l symlink 0777 ->no/../x/y", "d/x dir 0755", "d/x/y dir 0755", `d/x/y/f file 0644 "2"`)},
		{"whiteout through a symlink", []layer{{symlink("l", "d"), file("d/x", "1"), file("d/y", "1")}, {file("l/.wh.x", "")}}, lines(
			root, "d dir 0755", `d/y file 0644 "1"`, "l symlink 0777 ->d")},
		{"no whiteout through a replaced symlink", []layer{{symlink("l", "d"), file("d/x", "1")}, {dir("l", 0o700), file("l/.wh.x", ""), file("l/.wh..wh..opq", "")}}, lines(
			root, "d dir 0755", `d/x file 0644 "1"`, "l dir 0700")},
		{"opaque through a symlink", []layer{{symlink("l", "d"), file("d/x", "1")}, {file("l/.wh..wh..opq", "")}}, lines(
			root, "d dir 0755", "l symlink 0777 ->d")},
		{"hard link across layers", []layer{{file("b", "1")}, {link("a", "b")}}, lines(root, `a file 0644 "1" =b`, `b file 0644 "1"`)},
		{"replaced name leaves the other", []layer{{file("b", "1"), link("a", "b")}, {file("b", "2")}}, lines(
			root, `a file 0644 "1"`, `b file 0644 "2"`)},
		{"link to what its layer whites out", []layer{{file("b", "1")}, {file(".wh.b", ""), link("a", "b")}}, lines(root, `a file 0644 "1"`)},
		{"link through a new symlink", []layer{{file("usr/lib/f", "1")}, {symlink("lib", "usr/lib"), link("x", "lib/f")}}, lines(
			root, "lib symlink 0777 ->usr/lib", "usr dir 0755", "usr/lib dir 0755", `usr/lib/f file 0644 "1"`, `x file 0644 "1" =usr/lib/f`)},
		{"link to a device", []layer{{{tar.Header{Typeflag: tar.TypeChar, Name: "c", Devmajor: 1}, ""}}, {link("d", "c")}}, lines(
			root, "c char 0000", "d char 0000 =c")},
		{"link below a symlink", []layer{{file("d/t", "1"), symlink("l", "d"), link("l/u", "d/t")}}, lines(
			root, "d dir 0755", `d/t file 0644 "1"`, `d/u file 0644 "1" =d/t`, "l symlink 0777 ->d")},
		{"link to a file below a symlink, by its real path", []layer{{dir("d", 0o700), symlink("s", "d"), file("s/f", "1"), link("a", "d/f")}}, lines(
			root, `a file 0644 "1"`, "d dir 0700", `d/f file 0644 "1" =a`, "s symlink 0777 ->d")},
		{"link through a symlink to a later link", []layer{{file("d/z", "1"), link("d/y", "d/z"), symlink("s", "d"), link("a", "s/y")}}, lines(
			root, `a file 0644 "1"`, "d dir 0755", `d/y file 0644 "1" =a`, `d/z file 0644 "1" =a`, "s symlink 0777 ->d")},
		{"links that wait for one another", []layer{{file("d/z", "1"), symlink("s", "d"), link("s/c", "d/z"), link("s/b", "d/c"), link("a", "d/b")}}, lines(
			root, `a file 0644 "1"`, "d dir 0755", `d/b file 0644 "1" =a`, `d/c file 0644 "1" =a`, `d/z file 0644 "1" =a`, "s symlink 0777 ->d")},
		{"link through a symlink of a lower layer", []layer{{symlink("s", "d"), dir("d", 0o700)}, {file("s/f", "1"), link("a", "d/f")}}, lines(
			root, `a file 0644 "1"`, "d dir 0700", `d/f file 0644 "1" =a`, "s symlink 0777 ->d")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var layers []*Layer
			for _, items := range tc.layers {
				layers = append(layers, mustRead(t, items...))
			}
			if got := showTree(t, mustMerge(t, layers...), layers); got != tc.want {
				t.Errorf("got\n%swant\n%s", got, tc.want)
			}
		})
	}
}

func TestMergeRefuses(t *testing.T) {
	for _, tc := range []struct {
		name, want string
		lower      []item
		upper      []item
	}{
		{"no target", "does not exist", nil, []item{link("a", "b")}},
		{"target went before", "does not exist", []item{file("c", "")}, []item{file("d", ""), link("a", "b")}},
		{"links to one another", "does not exist", nil, []item{dir("d", 0), symlink("s", "d"), link("d/a", "s/b"), link("d/b", "s/a")}},
		{"target is a directory", "directory", []item{dir("d", 0)}, []item{link("a", "d")}},
		{"parent leads to a file", "not a directory", []item{file("f", ""), symlink("l", "f")}, []item{file("l/x", "")}},
		{"parent is a loop", "too many", []item{symlink("l", "m"), symlink("m", "l")}, []item{file("l/x", "")}},
		{"whiteout in a loop", "too many", []item{symlink("l", "l/x")}, []item{file("l/.wh.x", "")}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Merge([]*Layer{mustRead(t, tc.lower...), mustRead(t, tc.upper...)})
			var merge *MergeError
			if !errors.As(err, &merge) || merge.Layer != 1 || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want a MergeError of layer 1 with %q", err, tc.want)
			}
		})
	}
}

func TestMergeHomes(t *testing.T) {
	layers := []*Layer{
		mustRead(t, file("a", "1"), file("d/x", "1")), // a 0, d 1, d/x 2
		mustRead(t, file(".wh.a", ""), file(".wh.d", ""), file("b", "2")),
		mustRead(t, file("d/x", "3"), file("a", "3"), file("b", "3"), symlink("l", "no"), file("l/f", "3")),
	}
	tree := mustMerge(t, layers...)
	for path, want := range map[string][2]int{
		".": {-1, -1}, "a": {0, 0}, "d": {0, 1}, "d/x": {0, 2}, "b": {1, 0}, "l": {2, 4}, "no": {-1, -1}, "no/f": {2, 5},
	} {
		n := tree.Lookup(path)
		if got := [2]int{n.HomeLayer, n.HomeRank}; got != want {
			t.Errorf("%s: home %v, want %v", path, got, want)
		}
	}
	if in := tree.Lookup("a").Inode; in.Layer != 2 || layers[2].Entries[in.Entry].Path != "a" {
		t.Errorf("a comes from layer %d entry %d", in.Layer, in.Entry)
	}
}
