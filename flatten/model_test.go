package flatten

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// A model is the rules of the package over maps, as plain as they can be said.
// It knows nothing of paths that lead through symbolic links.
type model map[string]*modelFile

type modelFile struct {
	attr    string
	kind    Kind
	implied bool
}

var (
	errModel     = errors.New("refused")
	errThrough   = errors.New("path through a symbolic link")
	impliedModel = showAttr(&Attr{Kind: Dir, Mode: 0o755})
)

func ancestors(path string) []string {
	var out []string
	for i := range len(path) {
		if path[i] == '/' {
			out = append(out, path[:i])
		}
	}
	return out
}

func (m model) removeAll(path string) {
	for p := range m {
		if p == path || isBelow(p, path) {
			delete(m, p)
		}
	}
}

func (m model) through(path string) bool {
	for _, p := range ancestors(path) {
		if f := m[p]; f != nil && f.kind == Symlink {
			return true
		}
	}
	return false
}

// own applies a layer to an empty root; lower gives targets to hard links.
func (m model) own(items []item) (model, error) {
	own := model{}
	fromLower := map[string]string{} // link -> its target in lower layers
	for _, it := range items {
		path := strings.TrimSuffix(it.Name, "/")
		if what, _, _ := roleOf(path); what != plain {
			continue
		}
		if own.through(path) {
			return nil, errThrough
		}
		f, target, err := m.fileOf(own, fromLower, path, &it)
		if err != nil {
			return nil, err
		}
		for _, p := range ancestors(path) {
			if own[p] == nil {
				own[p] = &modelFile{attr: impliedModel, kind: Dir, implied: true}
			} else if own[p].kind != Dir {
				return nil, errModel
			}
		}
		if own[path] == nil || own[path].kind != Dir || f.kind != Dir {
			own.removeAll(path)
		}
		own[path] = f
		delete(fromLower, path)
		if target != "" {
			fromLower[path] = target
		}
	}
	for _, it := range items {
		own.implyForWhiteout(it.Name)
	}
	for path, f := range own {
		if f.kind == Link || fromLower[path] != "" && own[fromLower[path]] != nil {
			return nil, errModel
		}
	}
	return own, nil
}

func (m model) fileOf(own model, fromLower map[string]string, path string, it *item) (*modelFile, string, error) {
	if it.Typeflag != tar.TypeLink {
		h := it.Header
		a, err := attrOf(&h)
		text := showAttr(&a)
		if a.Kind == File {
			text += fmt.Sprintf(" %q", it.body)
		}
		return &modelFile{attr: text, kind: a.Kind}, "", err
	}
	target := it.Linkname
	if target == path || isBelow(target, path) {
		return nil, "", errModel
	}
	if own.through(target) || m.through(target) {
		return nil, "", errThrough
	}
	if f := own[target]; f != nil {
		if f.kind == Dir || fromLower[target] == path || isBelow(fromLower[target], path) {
			return nil, "", errModel
		}
		return f, fromLower[target], nil
	}
	if f := m[target]; f != nil && f.kind != Dir {
		return f, target, nil
	}
	return &modelFile{kind: Link}, target, nil // refused if it stays
}

func (m model) implyForWhiteout(name string) {
	what, hidden, _ := roleOf(name)
	paths := ancestors(hidden)
	if what == opaque && hidden != "." {
		paths = append(paths, hidden)
	} else if what != whiteout {
		return
	}
	for _, p := range paths {
		if m[p] == nil {
			m[p] = &modelFile{attr: impliedModel, kind: Dir, implied: true}
		} else if m[p].kind != Dir {
			return
		}
	}
}

// apply applies a layer to those below.
func (m model) apply(items []item) error {
	own, err := m.own(items)
	if err != nil {
		return err
	}
	for _, it := range items {
		what, hidden, _ := roleOf(it.Name)
		if what == plain {
			continue
		}
		if m.through(hidden+"/x") || own.through(hidden) {
			return errThrough
		}
		for p := range m {
			if what == opaque && isBelow(p, hidden) || what == whiteout && (p == hidden || isBelow(p, hidden)) {
				delete(m, p)
			}
		}
	}
	for _, path := range slices.SortedFunc(maps.Keys(own), ComparePaths) {
		if m.through(path + "/x") {
			if f := m[path]; own[path].implied || f == nil || f.kind != Symlink {
				return errThrough
			}
		}
		f, old := own[path], m[path]
		switch {
		case old != nil && old.kind == Dir && f.kind == Dir:
			if !f.implied {
				m[path] = f
			}
		default:
			m.removeAll(path)
			m[path] = f
		}
	}
	return nil
}

func (m model) show() string {
	var b strings.Builder
	b.WriteString(root + "\n")
	first := make(map[*modelFile]string)
	for _, path := range slices.SortedFunc(maps.Keys(m), ComparePaths) {
		f := m[path]
		fmt.Fprintf(&b, "%s %s", path, f.attr)
		if p, ok := first[f]; ok {
			b.WriteString(" =" + p)
		} else {
			first[f] = path
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// showByPath is showTree with the first name in walk order as an inode's name.
func showByPath(t testing.TB, tree *Tree, layers []*Layer) string {
	first := make(map[*Inode]*Node)
	if err := tree.Walk(func(_ string, n *Node) error {
		if first[n.Inode] == nil {
			first[n.Inode] = n
		}
		n.Inode.First = first[n.Inode]
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return showTree(t, tree, layers)
}

// generate makes layers from bytes.
func generate(data []byte) [][]item {
	layers := [][]item{nil}
	next := func() int {
		if len(data) == 0 {
			return 0
		}
		b := data[0]
		data = data[1:]
		return int(b)
	}
	path := func() string {
		n := next()
		parts := []string{string(rune('a' + n%3)), string(rune('a' + n/3%3)), string(rune('a' + n/9%3))}
		return strings.Join(parts[:1+n/27%3], "/")
	}
	for count := 0; len(data) > 0 && count < 200; count++ {
		last := &layers[len(layers)-1]
		switch op := next() % 16; op {
		case 0, 1:
			if len(layers) < 6 {
				layers = append(layers, nil)
			}
		case 2, 3, 4, 5:
			*last = append(*last, file(path(), fmt.Sprint(count)))
		case 6, 7, 8:
			*last = append(*last, dir(path(), int64(0o700+next()%64)))
		case 9:
			*last = append(*last, symlink(path(), path()))
		case 10, 11, 12:
			*last = append(*last, link(path(), path()))
		case 13, 14:
			*last = append(*last, file(WhiteoutName(path()), ""))
		case 15:
			*last = append(*last, file(OpaqueName(path()), ""))
		}
	}
	return layers
}

// describe writes generated layers in one line each.
func describe(layers [][]item) string {
	var b strings.Builder
	for _, items := range layers {
		for _, it := range items {
			fmt.Fprintf(&b, "%c %s %s; ", it.Typeflag, it.Name, it.Linkname)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// compareModel merges generated layers both ways, and reports whether they
// could be compared.
func compareModel(t testing.TB, data []byte) bool {
	m := model{}
	var layers []*Layer
	var err, modelErr error
	for _, items := range generate(data) {
		if modelErr = m.apply(items); errors.Is(modelErr, errThrough) {
			m = nil
			break
		}
		l, readErr := readBytes(archive(t, items...), Limits{})
		if err = readErr; err == nil {
			checkLayer(t, l)
			checkArchive(t, l)
			layers = append(layers, l)
			_, err = Merge(layers)
		}
		if (err != nil) != (modelErr != nil) {
			t.Fatalf("%serr %v, model %v", describe(generate(data)), err, modelErr)
		}
		if err != nil {
			return false
		}
	}
	tree, err := Merge(layers)
	if err != nil {
		t.Fatal(err)
	}
	checkTree(t, tree, layers)
	if m == nil {
		return false
	}
	if got, want := showByPath(t, tree, layers), m.show(); got != want {
		t.Fatalf("%sgot\n%swant\n%s", describe(generate(data)), got, want)
	}
	return true
}

// checkArchive checks that a layer written as a canonical archive reads as the
// same layer, and that this writes the same archive.
func checkArchive(t testing.TB, l *Layer) {
	t.Helper()
	var one, two bytes.Buffer
	if err := WriteArchive(&one, l); err != nil {
		t.Fatal(err)
	}
	again, err := ReadLayer(context.Background(), bytes.NewReader(one.Bytes()), &memSpool{}, Limits{})
	if err != nil {
		t.Fatalf("%v, from\n%s", err, show(l))
	}
	if err := WriteArchive(&two, again); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Fatalf("canonical archive of\n%sis another when read again:\n%s", show(l), show(again))
	}
}

func TestMergeAgainstModel(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	compared, all := 0, 2000
	if testing.Short() {
		all = 200 // the race detector finds nothing in one goroutine
	}
	for range all {
		data := make([]byte, 3+r.IntN(24))
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		if compareModel(t, data) {
			compared++
		}
	}
	if compared < all/4 {
		t.Errorf("only %d of %d could be compared", compared, all)
	}
}

func FuzzMerge(f *testing.F) {
	f.Add([]byte{2, 1, 0, 13, 1})
	f.Add([]byte{2, 40, 0, 10, 3, 40, 13, 40})
	f.Add([]byte{9, 1, 2, 28, 0, 15, 1, 6, 1, 7})
	f.Fuzz(func(t *testing.T, data []byte) { compareModel(t, data) })
}

func FuzzReadLayer(f *testing.F) {
	f.Add(archive(f, file("a/b", "x"), link("c", "a/b"), symlink("s", "a"), file("s/y", ""), file("d/.wh.x", "")))
	f.Add(archive(f, dir("./", 0o755), file(strings.Repeat("n", 200), "y"), file(".wh..wh..opq", "")))
	f.Fuzz(func(t *testing.T, data []byte) {
		lim := Limits{MaxFileBytes: 1 << 20, MaxLayerBytes: 1 << 22}
		l, err := readBytes(data, lim)
		if err != nil {
			return
		}
		checkLayer(t, l)
		checkArchive(t, l)
		if tree, err := Merge([]*Layer{l}); err == nil {
			checkTree(t, tree, []*Layer{l})
		}
	})
}

func BenchmarkReadLayer(b *testing.B) {
	pr, pw := io.Pipe()
	var buf bytes.Buffer
	go func() {
		w := tar.NewWriter(pw)
		for i := range 100_000 {
			_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("usr/lib/d%03d/f%05d.so", i/200, i), Mode: 0o644, Size: 1000})
			_, _ = w.Write(make([]byte, 1000))
		}
		pw.CloseWithError(w.Close())
	}()
	if _, err := io.Copy(&buf, pr); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(buf.Len()))
	b.ReportAllocs()
	for b.Loop() {
		l, err := ReadLayer(context.Background(), bytes.NewReader(buf.Bytes()), discardSpool{}, Limits{})
		if err != nil || len(l.Entries) != 100_000+502 {
			b.Fatal(len(l.Entries), err)
		}
	}
}

func BenchmarkMerge(b *testing.B) {
	var items []item
	for i := range 100_000 {
		items = append(items, file(fmt.Sprintf("usr/lib/d%03d/f%05d.so", i/200, i), ""))
	}
	layers := []*Layer{mustRead(b, items...), mustRead(b, items[50_000:]...)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Merge(layers); err != nil {
			b.Fatal(err)
		}
	}
}

// discardSpool forgets what is written to it.
type discardSpool struct{}

func (discardSpool) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (discardSpool) ReadAt([]byte, int64) (int, error)      { return 0, io.EOF }
