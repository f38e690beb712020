package zipfile

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/flatten"
)

// A member is an entry of an archive that a test makes.
type member struct {
	name, data string
	mode       fs.FileMode
}

// pack returns an archive as a Unix program writes it.
func pack(t testing.TB, members ...member) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	for _, m := range members {
		h := &zip.FileHeader{Name: m.name, Method: zip.Deflate, Modified: time.Unix(1_700_000_000, 0)}
		if m.mode == 0 {
			m.mode = 0o644
		}
		h.SetMode(m.mode)
		out, err := w.CreateHeader(h)
		if err == nil && !strings.HasSuffix(m.name, "/") {
			_, err = out.Write([]byte(m.data))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func openBytes(data []byte, lim Limits) (*Archive, error) {
	a := &Archive{}
	return a, a.readFrom(bytes.NewReader(data), int64(len(data)), lim)
}

func TestOpen(t *testing.T) {
	data := pack(t,
		member{"z.py", "print()", 0o755 | fs.ModeSetuid},
		member{"d/", "", 0o700 | fs.ModeDir},
		member{"d/x", strings.Repeat("x", 100_000), 0o600},
		member{"d-l", "d/x", 0o777 | fs.ModeSymlink},
		member{"./i//mplied/e", "", 0},
	)
	file := filepath.Join(t.TempDir(), "a.zip")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := Open(file, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	want := []flatten.Entry{
		{Path: "d", Attr: flatten.Attr{Kind: flatten.Dir, Mode: 0o700}},
		{Path: "d/x", Attr: flatten.Attr{Kind: flatten.File, Mode: 0o600, Size: 100_000}},
		{Path: "d-l", Attr: flatten.Attr{Kind: flatten.Symlink, Mode: 0o777, Target: "d/x"}},
		{Path: "i/mplied/e", Attr: flatten.Attr{Kind: flatten.File, Mode: 0o644}},
		{Path: "z.py", Attr: flatten.Attr{Kind: flatten.File, Mode: 0o755, Size: 7}},
	}
	if len(a.Entries) != len(want) {
		t.Fatalf("%d entries, want %d", len(a.Entries), len(want))
	}
	for i, e := range a.Entries {
		w := want[i]
		if e.Path != w.Path || e.Kind != w.Kind || e.Mode != w.Mode || e.Size != w.Size || e.Target != w.Target || e.MTime.Sec != 1_700_000_000 {
			t.Errorf("entry %+v, want %+v", e, w)
		}
	}
	if err := a.CheckLinks("."); err != nil {
		t.Error(err)
	}
	at, _ := a.Find("d/x")
	if got, err := a.ReadAll(at, 100_000); err != nil || string(got) != strings.Repeat("x", 100_000) {
		t.Errorf("read %d bytes: %v", len(got), err)
	}
	if _, err := a.ReadAll(at, 99_999); !errors.Is(err, ErrLimit) {
		t.Errorf("read with a bound: %v", err)
	}
}

// TestNoModes has an archive that no Unix program made: it has no modes.
func TestNoModes(t *testing.T) {
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	for _, name := range []string{"d/", "d/f"} {
		if _, err := w.Create(name); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	a, err := openBytes(buf.Bytes(), Limits{})
	if err != nil || a.Entries[0].Mode != 0o755 || a.Entries[1].Mode != 0o644 {
		t.Errorf("entries %+v, err %v", a.Entries, err)
	}
}

func TestRefused(t *testing.T) {
	link := fs.FileMode(0o777) | fs.ModeSymlink
	for _, c := range []struct {
		what    string
		members []member
	}{
		{"absolute name", []member{{"/etc/passwd", "x", 0}}},
		{`".." in a name`, []member{{"a/../../x", "x", 0}}},
		{`".." in a name`, []member{{"..", "x", 0}}},
		{`begins with ".wh."`, []member{{"a/.wh.passwd", "", 0}}},
		{"there twice", []member{{"a", "1", 0}, {"b", "", 0}, {"./a", "2", 0}}},
		{`lies below "a", which is a symbolic link`, []member{{"a", ".", link}, {"a/b/c", "x", 0}}},
		{`lies below "a", which is a file`, []member{{"a", "x", 0}, {"a/b", "x", 0}}},
		{"neither file", []member{{"a", "", 0o600 | fs.ModeNamedPipe}}},
		{"neither file", []member{{"a", "", 0o600 | fs.ModeDevice}}},
		{"symbolic link of 0 bytes", []member{{"a", "", link}}},
		{"symbolic link of 5000 bytes", []member{{"a", strings.Repeat("x", 5000), link}}},
		{"name of 300 bytes", []member{{strings.Repeat("n", 300), "", 0}}},
		{"NUL byte", []member{{"a\x00b", "", 0}}},
		{"named as a directory", []member{{"a/", "", link}}},
	} {
		_, err := openBytes(pack(t, c.members...), Limits{})
		if err == nil || !strings.Contains(err.Error(), c.what) {
			t.Errorf("%v: %v, want %q", c.members, err, c.what)
		}
	}
}

func TestLinks(t *testing.T) {
	link := fs.FileMode(0o777) | fs.ModeSymlink
	for _, c := range []struct {
		name, target, root string
		ok                 bool
	}{
		{"l", "x/y", ".", true},
		{"a/l", "../x", ".", true},
		{"l", "/x", ".", true},
		{"l", "/opt/lib/x", "opt", true},
		{"l", "/opt", "opt", true},
		{"l", "/optional", "opt", false},
		{"l", "/etc/passwd", "opt", false},
		{"l", "/opt/../etc/passwd", "opt", false},
		{"l", "..", ".", false},
		{"a/l", "../../x", ".", false},
		{"a/l", "../x/../../y", ".", false},
		{"l", "deep/..", ".", false}, // deep is a link: what lies above is not known
		{"l", "deep/x", ".", true},
	} {
		a, err := openBytes(pack(t, member{c.name, c.target, link}, member{"deep", "p/q", link}), Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if err := a.CheckLinks(c.root); (err == nil) != c.ok {
			t.Errorf("%s to %s in %s: %v", c.name, c.target, c.root, err)
		}
	}
}

func TestBombs(t *testing.T) {
	zeros := pack(t, member{"a", strings.Repeat("\x00", 1<<20), 0})
	if _, err := openBytes(zeros, Limits{}); err != nil {
		t.Errorf("a megabyte of zeros: %v", err)
	}
	if _, err := openBytes(zeros, Limits{MaxBytes: 1<<20 - 1}); !errors.Is(err, ErrLimit) {
		t.Errorf("more bytes than allowed: %v", err)
	}
	if _, err := openBytes(pack(t, member{"a", "", 0}, member{"b", "", 0}), Limits{MaxEntries: 1}); !errors.Is(err, ErrLimit) {
		t.Errorf("more entries than allowed: %v", err)
	}
	lie := bytes.Clone(zeros)
	at := bytes.LastIndex(lie, []byte("PK\x01\x02"))
	binary.LittleEndian.PutUint32(lie[at+24:], 1<<30) // uncompressed size
	if _, err := openBytes(lie, Limits{}); !errors.Is(err, ErrLimit) {
		t.Errorf("a gigabyte promised: %v", err)
	}
	if _, err := openBytes(overlapping(t), Limits{}); err == nil || !strings.Contains(err.Error(), "share bytes") {
		t.Errorf("overlapping entries: %v", err)
	}
	for _, size := range []uint32{1<<20 - 1, 1<<20 + 1} { // less and more than there is
		lie := bytes.Clone(zeros)
		binary.LittleEndian.PutUint32(lie[at+24:], size)
		a, err := openBytes(lie, Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Copy(0, func(r io.Reader) error { _, err := io.Copy(io.Discard, r); return err }); err == nil {
			t.Errorf("a size of %d that is %d: no error", size, 1<<20)
		}
	}
}

// overlapping returns an archive whose directory has one file's data under two names.
func overlapping(t testing.TB) []byte {
	data := pack(t, member{"a", "some data", 0})
	end := bytes.LastIndex(data, []byte("PK\x05\x06"))
	dir := bytes.LastIndex(data, []byte("PK\x01\x02"))
	second := bytes.Clone(data[dir:end])
	second[46] = 'b'
	out := append(bytes.Clone(data[:end]), second...)
	tail := bytes.Clone(data[end:])
	binary.LittleEndian.PutUint16(tail[8:], 2)
	binary.LittleEndian.PutUint16(tail[10:], 2)
	binary.LittleEndian.PutUint32(tail[12:], uint32(2*len(second)))
	return append(out, tail...)
}

func TestDamagedData(t *testing.T) {
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	body := []byte("stored as it is")
	h := &zip.FileHeader{Name: "a", Method: zip.Store, CRC32: crc32.ChecksumIEEE(body), CompressedSize64: uint64(len(body)), UncompressedSize64: uint64(len(body))}
	out, err := w.CreateRaw(h)
	if err == nil {
		_, err = out.Write([]byte("stored as it IS"))
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	lie := bytes.Clone(buf.Bytes())
	binary.LittleEndian.PutUint32(lie[bytes.LastIndex(lie, []byte("PK\x01\x02"))+24:], 14)
	if _, err := openBytes(lie, Limits{}); err == nil || !strings.Contains(err.Error(), "stored as they are") {
		t.Errorf("two sizes of what is stored: %v", err)
	}
	a, err := openBytes(buf.Bytes(), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.ReadAll(0, 100); !errors.Is(err, zip.ErrChecksum) {
		t.Errorf("damaged data: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(pack(f, member{"a/b", "data", 0}, member{"l", "a/b", 0o777 | fs.ModeSymlink}))
	f.Add(overlapping(f))
	f.Add([]byte("PK\x05\x06" + strings.Repeat("\x00", 18)))
	f.Fuzz(func(t *testing.T, data []byte) {
		lim := Limits{MaxEntries: 1000, MaxBytes: 1 << 20}
		a, err := openBytes(data, lim)
		if err != nil {
			return
		}
		_ = a.CheckLinks("opt")
		left := lim.MaxBytes
		for i, e := range a.Entries {
			if e.Path == "" || e.Path[0] == '/' || strings.Contains("/"+e.Path+"/", "/../") {
				t.Fatalf("path %q", e.Path)
			}
			if i > 0 && flatten.ComparePaths(a.Entries[i-1].Path, e.Path) >= 0 {
				t.Fatalf("%q after %q", e.Path, a.Entries[i-1].Path)
			}
			if e.Kind != flatten.File {
				continue
			}
			if left -= e.Size; left < 0 {
				t.Fatal("more bytes than allowed")
			}
			if got, err := a.ReadAll(i, e.Size); err == nil && int64(len(got)) != e.Size {
				t.Fatalf("%d bytes of %d", len(got), e.Size)
			}
		}
	})
}
