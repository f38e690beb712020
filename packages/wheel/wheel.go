// Package wheel installs wheels by the binary distribution format's rules, into an
// archive instead of a file system, and runs nothing that is in them.
//
// [Open] checks a wheel whole: its file name, its WHEEL and METADATA files, and each
// file against RECORD. [Wheel.Plan] says which files an installation makes, and where:
// what lies in the wheel's data folder goes where the [Layout] says, scripts get the
// image's interpreter, entry points become scripts, and RECORD is written anew.
// [Plan.WriteArchive] writes that as a canonical archive: the same wheel and layout give
// the same bytes.
package wheel

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"encoding/csv"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"path/filepath"
	"strings"

	"github.com/rivuletfs/rivulet/flatten"
	"github.com/rivuletfs/rivulet/flatten/zipfile"
	"github.com/rivuletfs/rivulet/internal/lateregexp"
)

const maxMetadataBytes = 16 << 20 // of one file of a wheel's dist-info that is parsed

// A Tag says which interpreters run a wheel, as in "cp311-cp311-manylinux_2_17_x86_64".
type Tag struct{ Python, ABI, Platform string }

func (t Tag) String() string { return t.Python + "-" + t.ABI + "-" + t.Platform }

// A Wheel is an open wheel that was found to be whole. One goroutine uses it.
type Wheel struct {
	Name           string   // as its METADATA has it
	Version        string   // the same
	Tags           []Tag    // that its file name promises
	RequiresPython string   // version specifiers; "": none
	Requires       []string // PEP 508 requirements

	archive *zipfile.Archive
	info    string // folder of its metadata
	data    string // folder of what goes elsewhere; may not be there
	pure    bool
	sums    map[string][sha256.Size]byte // of each file
}

// Open opens the wheel at path and checks it, reading it once. The name of the file
// matters: that of a wheel says what it is. The caller closes the wheel.
func Open(path string, lim zipfile.Limits) (*Wheel, error) {
	named, err := parseName(filepath.Base(path))
	if err != nil {
		return nil, err
	}
	a, err := zipfile.Open(path, lim)
	if err != nil {
		return nil, err
	}
	w := &Wheel{Name: named.name, Version: named.version, Tags: named.tags, archive: a}
	if err := w.read(named); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return w, nil
}

// Close closes the file.
func (w *Wheel) Close() error { return w.archive.Close() }

type fileName struct {
	name, version string
	tags          []Tag
}

var (
	namePattern    = lateregexp.New(`^[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?$`)
	versionPattern = lateregexp.New(`^[A-Za-z0-9](?:[A-Za-z0-9._+!-]*[A-Za-z0-9])?$`)
	tagPattern     = lateregexp.New(`^[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*$`)
	separators     = lateregexp.New(`[-_.]+`)
)

// Normalize returns a distribution's name in the form in which names are compared.
func Normalize(name string) string {
	return strings.ToLower(separators().ReplaceAllString(name, "-"))
}

// TagsOf returns the tags that the name of a wheel's file promises.
func TagsOf(file string) ([]Tag, error) {
	n, err := parseName(file)
	return n.tags, err
}

const maxTags = 256 // of one wheel

func parseName(file string) (fileName, error) {
	refuse := func(why string) (fileName, error) {
		return fileName{}, fmt.Errorf("%.200q is no wheel's name: %s (want NAME-VERSION-PYTHON-ABI-PLATFORM.whl)", file, why)
	}
	stem, ok := strings.CutSuffix(file, ".whl")
	if !ok {
		return refuse("it does not end in .whl")
	}
	parts := strings.Split(stem, "-")
	if len(parts) != 5 && len(parts) != 6 {
		return refuse("it has not five or six parts")
	}
	n := fileName{name: parts[0], version: parts[1]}
	if !namePattern().MatchString(n.name) || !versionPattern().MatchString(n.version) {
		return refuse("name or version")
	}
	if len(parts) == 6 && (parts[2] == "" || parts[2][0] < '0' || parts[2][0] > '9') {
		return refuse("a build tag begins with a digit")
	}
	tags := parts[len(parts)-3:]
	for _, t := range tags {
		if !tagPattern().MatchString(t) {
			return refuse("tag " + t)
		}
	}
	for python := range strings.SplitSeq(tags[0], ".") {
		for abi := range strings.SplitSeq(tags[1], ".") {
			for platform := range strings.SplitSeq(tags[2], ".") {
				if n.tags = append(n.tags, Tag{python, abi, platform}); len(n.tags) > maxTags {
					return refuse("more tags than there can be")
				}
			}
		}
	}
	return n, nil
}

func (w *Wheel) read(named fileName) error {
	if err := w.findInfo(named); err != nil {
		return err
	}
	about, err := w.headers("WHEEL")
	if err != nil {
		return err
	}
	switch major, _, _ := strings.Cut(about.first("wheel-version"), "."); major {
	case "1":
	case "":
		return errors.New("WHEEL names no Wheel-Version")
	default:
		return fmt.Errorf("wheel of version %.20q: only 1 is supported", about.first("wheel-version"))
	}
	w.pure = strings.EqualFold(about.first("root-is-purelib"), "true")
	meta, err := w.headers("METADATA")
	if err != nil {
		return err
	}
	if Normalize(meta.first("name")) != Normalize(named.name) {
		return fmt.Errorf("METADATA says %.100q, the file's name %q", meta.first("name"), named.name)
	}
	if v := meta.first("version"); !versionPattern().MatchString(v) || !sameVersion(v, named.version) {
		return fmt.Errorf("METADATA says version %.100q, the file's name %q", v, named.version)
	}
	w.Name, w.Version = meta.first("name"), meta.first("version")
	w.RequiresPython, w.Requires = meta.first("requires-python"), meta["requires-dist"]
	return w.checkRecord()
}

// sameVersion compares a version with how a file's name has it.
func sameVersion(v, inName string) bool {
	plain := func(s string) string { return strings.ToLower(separators().ReplaceAllString(s, ".")) }
	return plain(v) == plain(inName)
}

func (w *Wheel) findInfo(named fileName) error {
	for i := range w.archive.Entries {
		e := &w.archive.Entries[i]
		if e.Kind == flatten.Symlink {
			return &flatten.EntryError{Path: e.Path, Err: errors.New("wheels have no symbolic links")}
		}
		top, _, _ := strings.Cut(e.Path, "/")
		stem, ok := strings.CutSuffix(top, ".dist-info")
		if !ok || top == w.info {
			continue
		}
		if w.info != "" {
			return fmt.Errorf("two folders of metadata: %s and %s", w.info, top)
		}
		name, version, _ := strings.Cut(stem, "-")
		if Normalize(name) != Normalize(named.name) || !sameVersion(version, named.version) {
			return fmt.Errorf("its metadata folder %.200q is another distribution's", top)
		}
		w.info, w.data = top, stem+".data"
	}
	if w.info == "" {
		return errors.New("it has no .dist-info folder")
	}
	return nil
}

// readInfo returns a file of the wheel's metadata; ok is false if there is none.
func (w *Wheel) readInfo(name string) (data []byte, ok bool, err error) {
	i, ok := w.archive.Find(w.info + "/" + name)
	if !ok || w.archive.Entries[i].Kind != flatten.File {
		return nil, false, nil
	}
	data, err = w.archive.ReadAll(i, maxMetadataBytes)
	return data, true, err
}

// headers are the fields of a metadata file, their names in lower case.
type headers map[string][]string

func (h headers) first(key string) string {
	if len(h[key]) == 0 {
		return ""
	}
	return h[key][0]
}

func (w *Wheel) headers(name string) (headers, error) {
	data, ok, err := w.readInfo(name)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("it has no %s/%s", w.info, name)
	}
	return parseHeaders(data), nil
}

func parseHeaders(data []byte) headers {
	h := make(headers)
	last := ""
	for line := range bytes.Lines(data) {
		text := strings.TrimRight(string(line), "\r\n")
		if text == "" {
			break // a description may follow
		}
		if text[0] == ' ' || text[0] == '\t' {
			if v := h[last]; len(v) > 0 {
				v[len(v)-1] += " " + strings.TrimSpace(text)
			}
			continue
		}
		key, value, ok := strings.Cut(text, ":")
		if !ok {
			last = ""
			continue
		}
		last = strings.ToLower(key)
		h[last] = append(h[last], strings.TrimSpace(value))
	}
	return h
}

// A recordError says what is wrong between a wheel and its RECORD.
func recordError(path, format string, args ...any) error {
	return &flatten.EntryError{Path: path, Err: fmt.Errorf("RECORD: "+format, args...)}
}

// checkRecord holds each file against RECORD.
func (w *Wheel) checkRecord() error {
	data, ok, err := w.readInfo("RECORD")
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("it has no %s/RECORD", w.info)
	}
	listed, err := parseRecord(data)
	if err != nil {
		return err
	}
	w.sums = make(map[string][sha256.Size]byte, len(w.archive.Entries))
	for i := range w.archive.Entries {
		e := &w.archive.Entries[i]
		if e.Kind != flatten.File {
			continue
		}
		want, ok := listed[e.Path]
		delete(listed, e.Path)
		if w.unlisted(e.Path) {
			continue
		}
		if !ok {
			return recordError(e.Path, "the file is not listed")
		}
		sum, err := w.checkFile(i, want)
		if err != nil {
			return err
		}
		w.sums[e.Path] = sum
	}
	for path := range listed {
		if !w.unlisted(path) && !strings.HasSuffix(path, "/") {
			return recordError(path, "the file is listed and not there")
		}
	}
	return nil
}

// unlisted reports whether path needs no hash in RECORD: it is RECORD, or signs it.
func (w *Wheel) unlisted(path string) bool {
	name, ok := strings.CutPrefix(path, w.info+"/RECORD")
	return ok && (name == "" || name == ".jws" || name == ".p7s")
}

func (w *Wheel) checkFile(i int, want string) ([sha256.Size]byte, error) {
	var got [sha256.Size]byte
	e := &w.archive.Entries[i]
	algorithm, encoded, _ := strings.Cut(want, "=")
	sum := sha256.New()
	var check hash.Hash
	switch algorithm {
	case "sha256":
		check = sum
	case "sha384":
		check = sha512.New384()
	case "sha512":
		check = sha512.New()
	case "":
		return got, recordError(e.Path, "the file is listed without a hash")
	default:
		return got, recordError(e.Path, "hash %.40q: only SHA-256, SHA-384 and SHA-512 count", algorithm)
	}
	err := w.archive.Copy(i, func(r io.Reader) error {
		to := io.Writer(sum)
		if check != sum {
			to = io.MultiWriter(sum, check)
		}
		_, err := io.Copy(to, r)
		return err
	})
	if err != nil {
		return got, err
	}
	expected, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(encoded, "="))
	if err != nil || subtle.ConstantTimeCompare(expected, check.Sum(nil)) != 1 {
		return got, recordError(e.Path, "the file is not what its hash says")
	}
	sum.Sum(got[:0])
	return got, nil
}

// parseRecord returns the hash of each path.
func parseRecord(data []byte) (map[string]string, error) {
	r := csv.NewReader(bytes.NewReader(data))
	r.FieldsPerRecord = -1
	r.ReuseRecord = true
	out := make(map[string]string)
	for {
		row, err := r.Read()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("RECORD: %w", err)
		}
		if len(row) == 1 && row[0] == "" {
			continue
		}
		if len(row) != 3 {
			return nil, fmt.Errorf("RECORD: %d fields in a line, want 3", len(row))
		}
		name := strings.Clone(row[0])
		if _, ok := out[name]; ok {
			return nil, recordError(name, "the file is listed twice")
		}
		out[name] = strings.Clone(row[1])
	}
}

// A Script is an entry point that becomes a program.
type script struct{ name, module, attr string }

var (
	scriptName = lateregexp.New(`^[A-Za-z0-9_.+-]+$`)
	identifier = `[\p{L}_][\p{L}\p{Nd}_]*`
	scriptRef  = lateregexp.New(`^(` + identifier + `(?:\.` + identifier + `)*)\s*:\s*(` + identifier + `(?:\.` + identifier + `)*)\s*(?:\[[^\]]*\])?$`)
)

// parseScripts returns the entry points of the groups that make scripts.
func parseScripts(data []byte) ([]script, error) {
	var out []script
	seen := make(map[string]bool)
	group := ""
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		switch {
		case line == "" || line[0] == '#' || line[0] == ';':
			continue
		case line[0] == '[':
			group = strings.Trim(line, "[] ")
			continue
		case group != "console_scripts" && group != "gui_scripts":
			continue
		}
		name, ref, ok := strings.Cut(line, "=")
		name = strings.TrimSpace(name)
		m := scriptRef().FindStringSubmatch(strings.TrimSpace(ref))
		if !ok || m == nil || !scriptName().MatchString(name) || name == "." || name == ".." {
			return nil, fmt.Errorf("entry_points.txt: %.200q: want NAME = MODULE:FUNCTION", line)
		}
		if seen[name] {
			return nil, fmt.Errorf("entry_points.txt: script %q is there twice", name)
		}
		seen[name] = true
		out = append(out, script{name, m[1], m[2]})
	}
	return out, lines.Err()
}

// text is the program of an entry point.
func (s *script) text(interpreter string) []byte {
	first, _, _ := strings.Cut(s.attr, ".")
	return fmt.Appendf(nil, "#!%s\nimport sys\n\nfrom %s import %s\n\nif __name__ == \"__main__\":\n    sys.exit(%s())\n", interpreter, s.module, first, s.attr)
}

// checkContext returns the cause of a context that has ended.
func checkContext(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// relative returns target as seen from the folder dir; both are clean.
func relative(dir, target string) string {
	if dir == "." {
		return target
	}
	from, to := strings.Split(dir, "/"), strings.Split(target, "/")
	for len(from) > 0 && len(to) > 1 && from[0] == to[0] {
		from, to = from[1:], to[1:]
	}
	return path.Join(strings.Repeat("../", len(from)), path.Join(to...))
}
