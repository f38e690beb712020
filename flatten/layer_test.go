package flatten

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

// memSpool is a Spool in memory.
type memSpool struct{ data []byte }

func (s *memSpool) WriteAt(p []byte, off int64) (int, error) {
	if end := int(off) + len(p); end > len(s.data) {
		s.data = append(s.data, make([]byte, end-len(s.data))...)
	}
	return copy(s.data[off:], p), nil
}

func (s *memSpool) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(s.data).ReadAt(p, off)
}

// item is one entry of a test archive.
type item struct {
	tar.Header
	body string
}

func file(name, body string) item {
	return item{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, body}
}

func dir(name string, mode int64) item {
	return item{tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}, ""}
}

func symlink(name, target string) item {
	return item{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}, ""}
}

func link(name, target string) item {
	return item{tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}, ""}
}

func archive(t testing.TB, items ...item) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, it := range items {
		h := it.Header
		h.Size = int64(len(it.body))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, it.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func readBytes(data []byte, lim Limits) (*Layer, error) {
	return ReadLayer(context.Background(), bytes.NewReader(data), &memSpool{}, lim)
}

func mustRead(t testing.TB, items ...item) *Layer {
	t.Helper()
	l, err := readBytes(archive(t, items...), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	checkLayer(t, l)
	return l
}

// checkLayer checks what the contract promises of a Layer.
func checkLayer(t testing.TB, l *Layer) {
	t.Helper()
	byPath := make(map[string]*Entry)
	for i := range l.Entries {
		e := &l.Entries[i]
		if clean, err := cleanPath(e.Path); err != nil || clean != e.Path {
			t.Fatalf("path %q is not clean: %v", e.Path, err)
		}
		if i > 0 && ComparePaths(l.Entries[i-1].Path, e.Path) >= 0 {
			t.Fatalf("%q after %q", e.Path, l.Entries[i-1].Path)
		}
		byPath[e.Path] = e
		if e.Path != "." {
			if above, _ := splitPath(e.Path); above != "." {
				p := byPath[above]
				if p == nil || p.Kind != Dir && p.Kind != Symlink {
					t.Fatalf("%q has no parent", e.Path)
				}
			}
		}
		checkAttr(t, l, e)
	}
	for i := range l.Entries {
		if e := &l.Entries[i]; e.Kind == Link {
			if to := byPath[e.Target]; to != nil && (to.Kind == Dir || to.Kind == Link) {
				t.Fatalf("link %q to %q of kind %d", e.Path, e.Target, to.Kind)
			}
		}
	}
	if !slices.IsSortedFunc(l.Whiteouts, ComparePaths) || !slices.IsSortedFunc(l.Opaques, ComparePaths) {
		t.Fatalf("whiteouts %q or opaques %q out of order", l.Whiteouts, l.Opaques)
	}
}

func checkAttr(t testing.TB, l *Layer, e *Entry) {
	t.Helper()
	switch {
	case e.Kind < Dir || e.Kind > Link:
		t.Fatalf("%q: kind %d", e.Path, e.Kind)
	case e.Mode > 0o7777:
		t.Fatalf("%q: mode %o", e.Path, e.Mode)
	case e.MTime.Sec < MinTime || e.MTime.Sec > MaxTime || e.MTime.Nsec > 999_999_999:
		t.Fatalf("%q: time %v", e.Path, e.MTime)
	case (e.Kind == Symlink || e.Kind == Link) != (e.Target != ""):
		t.Fatalf("%q: kind %d with target %q", e.Path, e.Kind, e.Target)
	case e.Implied && e.Kind != Dir:
		t.Fatalf("%q: implied, kind %d", e.Path, e.Kind)
	case !slices.IsSortedFunc(e.Xattrs, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) }):
		t.Fatalf("%q: attributes out of order", e.Path)
	}
	if e.Kind == File && e.Size > 0 {
		if _, err := l.Data.ReadAt(make([]byte, 1), e.Data+e.Size-1); err != nil && err != io.EOF {
			t.Fatalf("%q: data: %v", e.Path, err)
		}
	}
}

// show writes a layer's content in one line an entry.
func show(l *Layer) string {
	var b strings.Builder
	for i := range l.Entries {
		e := &l.Entries[i]
		fmt.Fprintf(&b, "%s %s", e.Path, showAttr(&e.Attr))
		if e.Implied {
			b.WriteString(" implied")
		}
		if e.Kind == File {
			data := make([]byte, e.Size)
			if _, err := l.Data.ReadAt(data, e.Data); err != nil && err != io.EOF {
				fmt.Fprintf(&b, " %v", err)
			}
			fmt.Fprintf(&b, " %q", data)
		}
		b.WriteByte('\n')
	}
	for _, w := range l.Whiteouts {
		fmt.Fprintf(&b, "whiteout %s\n", w)
	}
	for _, o := range l.Opaques {
		fmt.Fprintf(&b, "opaque %s\n", o)
	}
	return b.String()
}

func showAttr(a *Attr) string {
	s := fmt.Sprintf("%s %04o", map[Kind]string{Dir: "dir", File: "file", Symlink: "symlink", Char: "char", Block: "block", FIFO: "fifo", Link: "link"}[a.Kind], a.Mode)
	if a.Target != "" {
		s += " ->" + a.Target
	}
	return s
}

func lines(s ...string) string {
	if len(s) == 0 {
		return ""
	}
	return strings.Join(s, "\n") + "\n"
}

func TestReadLayerRules(t *testing.T) {
	for _, tc := range []struct {
		name  string
		items []item
		want  string
	}{
		{"empty", nil, ""},
		{"missing parents are implied", []item{file("a/b/c", "x")}, lines(
			"a dir 0755 implied", "a/b dir 0755 implied", `a/b/c file 0644 "x"`)},
		{"names are cleaned", []item{dir("./", 0o700), file("/a//b", "1"), file("./x/./y/../z", "2")}, lines(
			". dir 0700", "a dir 0755 implied", `a/b file 0644 "1"`, "x dir 0755 implied", `x/z file 0644 "2"`)},
		{"walk order, not byte order", []item{file("a-b", ""), file("a/x", ""), file("a.b/x", "")}, lines(
			"a dir 0755 implied", `a/x file 0644 ""`, `a-b file 0644 ""`, "a.b dir 0755 implied", `a.b/x file 0644 ""`)},
		{"last file wins", []item{file("a", "old"), file("a", "new")}, lines(`a file 0644 "new"`)},
		{"a later directory changes attributes only", []item{file("d/f", "x"), dir("d", 0o700), dir("d/", 0o711)}, lines(
			"d dir 0711", `d/f file 0644 "x"`)},
		{"a file replaces a directory and its content", []item{dir("d", 0o755), file("d/e/f", "x"), file("d", "y")}, lines(
			`d file 0644 "y"`)},
		{"and a directory the file", []item{file("d/e/f", "x"), file("d", "y"), file("z", ""), dir("d", 0o700), file("d/g", "z")}, lines(
			"d dir 0700", `d/g file 0644 "z"`, `z file 0644 ""`)},
		{"entries below a symlink stay where they are written", []item{symlink("l", "d"), file("l/e/f", "x")}, lines(
			"l symlink 0777 ->d", "l/e dir 0755 implied", `l/e/f file 0644 "x"`)},
		{"whiteouts", []item{file("d/.wh.x", ""), file(".wh.y", "ignored body"), file("e/.wh..wh..opq", ""), file(".wh..wh..opq", "")}, lines(
			"d dir 0755 implied", "e dir 0755 implied", "whiteout d/x", "whiteout y", "opaque .", "opaque e")},
		{"a whiteout spares its own layer", []item{file("a", "1"), file(".wh.a", ""), file(".wh.b", ""), file("b", "2")}, lines(
			`a file 0644 "1"`, `b file 0644 "2"`, "whiteout a", "whiteout b")},
		{"a whiteout below a file implies nothing", []item{file("a", "1"), file("a/.wh.x", "")}, lines(
			`a file 0644 "1"`, "whiteout a/x")},
		{"aufs names are ignored", []item{dir(".wh..wh.plnk", 0o700), file(".wh..wh.plnk/1.2", "x"), file(".wh..wh.aufs", "")}, ""},
		{"hard links", []item{file("z", "1"), link("a", "./z"), link("b", "/a")}, lines(
			"a link 0000 ->z", "b link 0000 ->z", `z file 0644 "1"`)},
		{"a hard link outlives its target", []item{file("z", "1"), link("b", "z"), link("a", "z"), file("z", "2")}, lines(
			"a link 0000 ->b", `b file 0644 "1"`, `z file 0644 "2"`)},
		{"hard link to a lower layer", []item{link("a", "x/y"), link("b", "a")}, lines(
			"a link 0000 ->x/y", "b link 0000 ->x/y")},
		{"hard link to a symlink", []item{symlink("s", "t"), link("a", "s")}, lines(
			"a link 0000 ->s", "s symlink 0777 ->t")},
		{"replaced names do not count as targets", []item{file("d/f", "1"), file("d", "2"), link("e", "d/f")}, lines(
			`d file 0644 "2"`, "e link 0000 ->d/f")},
		{"link kept over the directory of its target", []item{file("d/f", "1"), link("a", "d/f"), link("d", "a")}, lines(
			`a file 0644 "1"`, "d link 0000 ->a")},
		{"devices and pipes", []item{
			{tar.Header{Typeflag: tar.TypeChar, Name: "c", Mode: 0o666, Devmajor: 4095, Devminor: 1<<20 - 1}, ""},
			{tar.Header{Typeflag: tar.TypeBlock, Name: "b", Mode: 0o4660, Devmajor: 8}, ""},
			{tar.Header{Typeflag: tar.TypeFifo, Name: "p", Mode: 0o1600}, ""},
		}, lines("b block 4660", "c char 0666", "p fifo 1600")},
		{"contiguous files and global headers", []item{
			{tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}, ""},
			{tar.Header{Typeflag: tar.TypeCont, Name: "f", Mode: 0o600}, "x"},
		}, lines(`f file 0600 "x"`)},
		{"long names", []item{file(strings.Repeat("n", 255)+"/"+strings.Repeat("m", 200), "x")}, lines(
			strings.Repeat("n", 255)+" dir 0755 implied", strings.Repeat("n", 255)+"/"+strings.Repeat("m", 200)+` file 0644 "x"`)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := show(mustRead(t, tc.items...)); got != tc.want {
				t.Errorf("got\n%swant\n%s", got, tc.want)
			}
		})
	}
}

func TestReadLayerRefuses(t *testing.T) {
	for _, tc := range []struct {
		name, want string
		items      []item
	}{
		{"leaves the root", `"a/../../b"`, []item{file("a/../../b", "")}},
		{"absolute and leaves the root", "leaves the root", []item{file("/../b", "")}},
		{"link target leaves the root", "leaves the root", []item{file("x", ""), link("a", "../x")}},
		{"empty link target", "empty name", []item{link("a", "")}},
		{"long part", "256 bytes", []item{file(strings.Repeat("n", 256), "")}},
		{"long path", "at most 4095", []item{file(strings.Repeat("n/", 2048)+"f", "")}},
		{"below a file", "not a directory", []item{file("a", ""), file("a/b", "")}},
		{"below a device", "not a directory", []item{{tar.Header{Typeflag: tar.TypeChar, Name: "c"}, ""}, dir("c/d/e", 0)}},
		{"root is a file", "root", []item{file(".", "")}},
		{"link to a directory", "directory", []item{dir("d", 0), link("a", "d")}},
		{"link to itself", "itself", []item{file("a", ""), link("a", "a")}},
		{"link to below itself", "below itself", []item{file("a/b", ""), link("a", "a/b")}},
		{"link to what comes later", "only afterwards", []item{link("a", "b"), file("b", "")}},
		{"empty symlink", "0 bytes", []item{symlink("s", "")}},
		{"large owner", "owner", []item{{tar.Header{Typeflag: tar.TypeReg, Name: "f", Uid: 1 << 32}, ""}}},
		{"large device", "device", []item{{tar.Header{Typeflag: tar.TypeBlock, Name: "f", Devmajor: 4096}, ""}}},
		{"unknown type", "not supported", []item{{tar.Header{Typeflag: 'D', Name: "f"}, ""}}},
		{"whiteout of nothing", "no name", []item{file("d/.wh.", "")}},
		{"whiteout of dot dot", "no name", []item{file("d/.wh...", "")}},
		{"below a whiteout", "whiteout", []item{file(".wh.a/b", "")}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := readBytes(archive(t, tc.items...), Limits{})
			var entry *EntryError
			if !errors.As(err, &entry) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an EntryError with %q", err, tc.want)
			}
		})
	}
}

func TestReadLayerLimits(t *testing.T) {
	data := archive(t, file("a/b", "12345"), file("c", "123456"), file(".wh.x", ""))
	for name, lim := range map[string]Limits{
		"entries": {MaxEntries: 2}, "file": {MaxFileBytes: 5}, "layer": {MaxLayerBytes: 10}, "metadata": {MaxMetadataBytes: 4},
	} {
		if _, err := readBytes(data, lim); !errors.Is(err, ErrLimit) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := readBytes(data, Limits{MaxEntries: 5, MaxFileBytes: 6, MaxLayerBytes: 11, MaxMetadataBytes: 6}); err != nil {
		t.Error(err)
	}
}

func TestReadLayerTimes(t *testing.T) {
	for _, tc := range []struct {
		in   time.Time
		want Time
	}{
		{time.Unix(0, 0), Time{}},
		{time.Unix(-1, 250_000_000), Time{-1, 250_000_000}},
		{time.Unix(-86400*365*40, 1), Time{-86400 * 365 * 40, 1}},
		{time.Unix(1<<31+5, 999_999_999), Time{1<<31 + 5, 999_999_999}},
		{time.Unix(math.MinInt32+1, 7), Time{math.MinInt32 + 1, 7}},
		{time.Unix(math.MinInt32-1, 7), Time{math.MinInt32, 0}},
		{time.Unix(MaxTime-1, 7), Time{MaxTime - 1, 7}},
		{time.Unix(MaxTime+1, 7), Time{MaxTime, 0}},
		{time.Unix(1<<40, 7), Time{MaxTime, 0}},
	} {
		l := mustRead(t, item{tar.Header{Typeflag: tar.TypeReg, Name: "f", ModTime: tc.in, Format: tar.FormatPAX}, ""})
		if got := l.Entries[0].MTime; got != tc.want {
			t.Errorf("%v: got %v, want %v", tc.in, got, tc.want)
		}
	}
}

func TestReadLayerXattrs(t *testing.T) {
	cap := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	records := map[string]string{
		paxXattr + "user.z": "", paxXattr + "security.capability": cap, paxXattr + aclAccess: "\x02\x00\x00\x00",
		paxXattr + aclDefault: "d", paxXattr + "trusted.t": "v", paxXattr + "com.apple.x": "no", "SCHILY.acl.access": "no",
	}
	names := func(e Entry) string {
		var s []string
		for _, x := range e.Xattrs {
			s = append(s, x.Name)
		}
		return strings.Join(s, " ")
	}
	of := func(name string, flag byte) item {
		return item{tar.Header{Typeflag: flag, Name: name, Linkname: "x", PAXRecords: records}, ""}
	}
	l := mustRead(t, of("d", tar.TypeDir), of("f", tar.TypeReg), of("p", tar.TypeFifo), of("s", tar.TypeSymlink))
	want := []string{
		"security.capability system.posix_acl_access system.posix_acl_default trusted.t user.z",
		"security.capability system.posix_acl_access trusted.t user.z",
		"security.capability system.posix_acl_access trusted.t",
		"security.capability trusted.t",
	}
	for i, e := range l.Entries {
		if names(e) != want[i] {
			t.Errorf("%s: %s, want %s", e.Path, names(e), want[i])
		}
	}
	if got := l.Entries[0].Xattrs[0].Value; got != cap {
		t.Errorf("value %q", got)
	}
}

func TestReadLayerDamaged(t *testing.T) {
	whole := archive(t, file("a", strings.Repeat("x", 3000)), dir("d", 0o755), file("d/b", "y"))
	for n := 1; n <= 4608; n += 100 { // past that only padding is missing
		if _, err := readBytes(whole[:n], Limits{}); err == nil && n%512 != 0 {
			t.Errorf("cut at %d: no error", n)
		}
	}
	if _, err := readBytes(append(slices.Clone(whole), make([]byte, 200_000)...), Limits{}); err != nil {
		t.Errorf("zeros at the end: %v", err)
	}
	if _, err := readBytes(append(append(slices.Clone(whole), make([]byte, 70_000)...), 1), Limits{}); err == nil {
		t.Error("data after the end: no error")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := ReadLayer(ctx, bytes.NewReader(whole), &memSpool{}, Limits{}); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

func TestSpoolHoles(t *testing.T) {
	body := bytes.Repeat([]byte{1}, 100)
	body = append(body, make([]byte, 5<<20)...)
	body = append(body, 2)
	body = append(body, make([]byte, 3<<20)...)
	spool := &countingSpool{}
	l, err := ReadLayer(context.Background(), bytes.NewReader(archive(t, file("f", string(body)))), spool, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(body))
	if _, err := l.Data.ReadAt(got, l.Entries[0].Data); err != nil || !bytes.Equal(got, body) {
		t.Errorf("data differ, err %v", err)
	}
	if spool.written > 4*spoolPiece {
		t.Errorf("%d bytes written for a file of zeros", spool.written)
	}
}

type countingSpool struct {
	memSpool
	written int
}

func (s *countingSpool) WriteAt(p []byte, off int64) (int, error) {
	s.written += len(p)
	return s.memSpool.WriteAt(p, off)
}
