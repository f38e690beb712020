package wheel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/rivuletfs/rivulet/flatten"
	"github.com/rivuletfs/rivulet/flatten/zipfile"
)

// A Layout says where an installation lands in an image. Folders are paths as
// flatten.Entry has them.
type Layout struct {
	Purelib, Platlib string // site-packages
	Headers          string // in a folder of the distribution's own below it
	Scripts          string // programs
	Data             string // the installation's prefix
	Interpreter      string // absolute path of Python, for scripts
	// PathFile, if set, is a file that has Python find Purelib: it gets Purelib's
	// absolute path.
	PathFile string
	// Installer is what the INSTALLER file says.
	Installer string
}

// Check reports, by a nil error, whether the layout can be used.
func (l *Layout) Check() error {
	for _, dir := range []string{l.Purelib, l.Platlib, l.Headers, l.Scripts, l.Data} {
		if dir == "" || dir != "." && (strings.HasPrefix(dir, "/") || slices.ContainsFunc(strings.Split(dir, "/"), func(p string) bool { return p == "" || p == "." || p == ".." })) {
			return fmt.Errorf("install into %q: want the path of a folder", dir)
		}
	}
	// The kernel takes 255 bytes of a first line, and cuts it at a space.
	if !strings.HasPrefix(l.Interpreter, "/") || len(l.Interpreter) > 200 || strings.ContainsAny(l.Interpreter, " \t\n\x00") {
		return fmt.Errorf("interpreter %q: want an absolute path without spaces, of at most 200 bytes", l.Interpreter)
	}
	return nil
}

// A File is one that an installation makes.
type File struct {
	Path  string // in the image
	Mode  uint16 // 0644 or 0755
	Size  int64
	MTime flatten.Time

	index int    // in the wheel; -1: data has the content
	data  []byte // before it, with index: instead of the first cut bytes
	cut   int64
	sum   [sha256.Size]byte
	bare  bool // without hash and size in RECORD
}

// A Plan is what an installation of a wheel makes. It is good while the wheel is open.
type Plan struct {
	Files []File // in walk order

	wheel  *Wheel
	layout Layout
	record string // path of RECORD
}

// Plan returns what installing the wheel makes. It fails for two files that would get
// the same path, and for what a wheel's data folder may not have.
func (w *Wheel) Plan(l Layout) (*Plan, error) {
	if err := l.Check(); err != nil {
		return nil, err
	}
	site := l.Platlib
	if w.pure {
		site = l.Purelib
	}
	p := &Plan{wheel: w, layout: l, record: zipfile.Join(site, w.info+"/RECORD")}
	for i := range w.archive.Entries {
		e := &w.archive.Entries[i]
		if e.Kind != flatten.File || w.unlisted(e.Path) {
			continue
		}
		if err := p.place(i, e, site); err != nil {
			return nil, err
		}
	}
	if err := p.generate(site); err != nil {
		return nil, err
	}
	slices.SortFunc(p.Files, func(x, y File) int { return flatten.ComparePaths(x.Path, y.Path) })
	for i := 1; i < len(p.Files); i++ {
		if p.Files[i-1].Path == p.Files[i].Path {
			return nil, &flatten.EntryError{Path: p.Files[i].Path, Err: errors.New("two files of the wheel would get this path")}
		}
	}
	return p, nil
}

// place adds the file of entry i.
func (p *Plan) place(i int, e *flatten.Entry, site string) error {
	w := p.wheel
	f := File{Mode: 0o644, Size: e.Size, MTime: e.MTime, index: i, sum: w.sums[e.Path]}
	if e.Mode&0o111 != 0 {
		f.Mode = 0o755
	}
	rest, ok := strings.CutPrefix(e.Path, w.data+"/")
	if !ok {
		if e.Path == w.info+"/INSTALLER" || e.Path == w.info+"/REQUESTED" {
			return nil // the installer's own
		}
		f.Path = zipfile.Join(site, e.Path)
		p.Files = append(p.Files, f)
		return nil
	}
	kind, name, ok := strings.Cut(rest, "/")
	if !ok {
		return &flatten.EntryError{Path: e.Path, Err: errors.New("a file between the folders of a wheel's data")}
	}
	switch kind {
	case "purelib":
		f.Path = zipfile.Join(p.layout.Purelib, name)
	case "platlib":
		f.Path = zipfile.Join(p.layout.Platlib, name)
	case "headers":
		f.Path = zipfile.Join(p.layout.Headers, w.Name+"/"+name)
	case "scripts":
		f.Path, f.Mode = zipfile.Join(p.layout.Scripts, name), 0o755
		if err := p.interpret(&f); err != nil {
			return err
		}
	case "data":
		f.Path = zipfile.Join(p.layout.Data, name)
	default:
		return &flatten.EntryError{Path: e.Path, Err: fmt.Errorf("data folder %.40q: there are purelib, platlib, headers, scripts and data", kind)}
	}
	p.Files = append(p.Files, f)
	return nil
}

const maxFirstLine = 512

// interpret gives a script of the wheel's the image's interpreter, where it asks for that.
func (p *Plan) interpret(f *File) error {
	var head [maxFirstLine]byte
	var n int
	err := p.wheel.archive.Copy(f.index, func(r io.Reader) error {
		var err error
		if n, err = io.ReadFull(r, head[:]); err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		return err
	})
	if err != nil || !bytes.HasPrefix(head[:n], []byte("#!python")) {
		return err
	}
	end := bytes.IndexByte(head[:n], '\n')
	if end < 0 {
		end = n
	}
	_, args, _ := strings.Cut(strings.TrimRight(string(head[:end]), "\r"), " ")
	line := "#!" + p.layout.Interpreter
	if args != "" {
		line += " " + args
	}
	f.data, f.cut = []byte(line), int64(end)
	f.Size += int64(len(line) - end)
	sum := sha256.New()
	if err := p.copy(f, func(r io.Reader) error { _, err := io.Copy(sum, r); return err }); err != nil {
		return err
	}
	sum.Sum(f.sum[:0])
	return nil
}

// generate adds what an installer writes by itself, but for RECORD.
func (p *Plan) generate(site string) error {
	w := p.wheel
	var when flatten.Time
	if i, ok := w.archive.Find(w.info + "/WHEEL"); ok {
		when = w.archive.Entries[i].MTime
	}
	add := func(path string, mode uint16, data []byte) {
		p.Files = append(p.Files, File{Path: path, Mode: mode, Size: int64(len(data)), MTime: when, index: -1, data: data, sum: sha256.Sum256(data)})
	}
	add(zipfile.Join(site, w.info+"/INSTALLER"), 0o644, []byte(p.layout.Installer+"\n"))
	if p.layout.PathFile != "" {
		add(p.layout.PathFile, 0o644, []byte("/"+p.layout.Purelib+"\n"))
	}
	points, _, err := w.readInfo("entry_points.txt")
	if err != nil {
		return err
	}
	scripts, err := parseScripts(points)
	if err != nil {
		return err
	}
	for _, s := range scripts {
		add(zipfile.Join(p.layout.Scripts, s.name), 0o755, s.text(p.layout.Interpreter))
	}
	p.Files = append(p.Files, File{Path: p.record, Mode: 0o644, MTime: when, index: -1, bare: true})
	return nil
}

// Copy gives the content of a file to fn, RECORD excepted. What fn made of it is good
// only if Copy returns no error.
func (p *Plan) Copy(i int, fn func(io.Reader) error) error { return p.copy(&p.Files[i], fn) }

func (p *Plan) copy(f *File, fn func(io.Reader) error) error {
	if f.index < 0 {
		return fn(bytes.NewReader(f.data))
	}
	return p.wheel.archive.Copy(f.index, func(r io.Reader) error {
		if _, err := io.CopyN(io.Discard, r, f.cut); err != nil {
			return err
		}
		return fn(io.MultiReader(bytes.NewReader(f.data), r))
	})
}

// Sources returns the indexes of the Python modules in Files.
func (p *Plan) Sources() []int {
	var out []int
	for i := range p.Files {
		f := &p.Files[i]
		below := strings.HasPrefix(f.Path, p.layout.Purelib+"/") || strings.HasPrefix(f.Path, p.layout.Platlib+"/")
		if below && strings.HasSuffix(f.Path, ".py") {
			out = append(out, i)
		}
	}
	return out
}

// AddCompiled adds a module's bytecode, which stands in RECORD without a hash. All of it
// is added before the archive is written.
func (p *Plan) AddCompiled(path string, when flatten.Time, data []byte) error {
	i, found := slices.BinarySearchFunc(p.Files, path, func(f File, path string) int { return flatten.ComparePaths(f.Path, path) })
	if found {
		return &flatten.EntryError{Path: path, Err: errors.New("the wheel has bytecode of its own there")}
	}
	p.Files = slices.Insert(p.Files, i, File{Path: path, Mode: 0o644, Size: int64(len(data)), MTime: when, index: -1, data: data, bare: true})
	return nil
}

// Has reports whether the installation makes a file at path.
func (p *Plan) Has(path string) bool {
	_, found := slices.BinarySearchFunc(p.Files, path, func(f File, path string) int { return flatten.ComparePaths(f.Path, path) })
	return found
}

// writeRecord returns the content of RECORD.
func (p *Plan) writeRecord() ([]byte, error) {
	site := strings.TrimSuffix(p.record, "/"+p.wheel.info+"/RECORD")
	var buf bytes.Buffer
	w := csv.NewWriter(&buf)
	for i := range p.Files {
		f := &p.Files[i]
		row := []string{relative(site, f.Path), "", ""}
		if !f.bare {
			row[1], row[2] = "sha256="+base64.RawURLEncoding.EncodeToString(f.sum[:]), fmt.Sprint(f.Size)
		}
		if err := w.Write(row); err != nil {
			return nil, err
		}
	}
	w.Flush()
	return buf.Bytes(), w.Error()
}

// WriteArchive writes the installation as a canonical archive. Files belong to root.
func (p *Plan) WriteArchive(ctx context.Context, w io.Writer) error {
	record, err := p.writeRecord()
	if err != nil {
		return err
	}
	out := flatten.NewArchiveWriter(w)
	for i := range p.Files {
		if err := checkContext(ctx); err != nil {
			return err
		}
		f := p.Files[i]
		if f.Path == p.record {
			f.data, f.Size = record, int64(len(record))
		}
		e := flatten.Entry{Path: f.Path, Attr: flatten.Attr{Kind: flatten.File, Mode: f.Mode, MTime: f.MTime, Size: f.Size}}
		if err := p.copy(&f, func(r io.Reader) error { return out.Add(&e, r) }); err != nil {
			return err
		}
	}
	return out.Close()
}

// Contents returns the path of each file and what tells its content from another's.
func (p *Plan) Contents() map[string]string {
	out := make(map[string]string, len(p.Files))
	for i := range p.Files {
		f := &p.Files[i]
		sum := f.sum
		if f.bare {
			sum = sha256.Sum256(f.data)
		}
		out[f.Path] = fmt.Sprintf("%x", sum[:8])
	}
	return out
}

// WriteFiles writes the installation's files below root, but for RECORD: for whoever
// throws it away again.
func (p *Plan) WriteFiles(root *os.Root) error {
	for i := range p.Files {
		f := &p.Files[i]
		if f.Path == p.record {
			continue
		}
		if err := root.MkdirAll(path.Dir(f.Path), 0o755); err != nil {
			return err
		}
		if err := p.writeFile(root, f); err != nil {
			return err
		}
	}
	return nil
}

func (p *Plan) writeFile(root *os.Root, f *File) (err error) {
	out, err := root.OpenFile(f.Path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, os.FileMode(f.Mode))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if err := p.copy(f, func(r io.Reader) error { _, err := io.Copy(out, r); return err }); err != nil {
		return err
	}
	return out.Chmod(os.FileMode(f.Mode))
}
