package python

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/rivuletfs/rivulet/internal/lateregexp"
	"github.com/rivuletfs/rivulet/packages/sandbox"
)

//go:embed imports.py
var importsScript string

// An Import is what importing a package's modules read, and how long it took: measured
// once, and advice alone.
type Import struct {
	Modules []string `json:"modules"`         // in the order of their import
	Seconds float64  `json:"seconds"`         // with its files in memory
	Error   string   `json:"error,omitempty"` // of the first that failed
	With    string   `json:"with"`            // says which other packages were there
	Reads   []Read   `json:"reads"`           // of the package's own files, in order
}

// A Read is a file that was read, or parts of it.
type Read struct {
	Path   string     `json:"path"`             // in the image
	At     float64    `json:"at"`               // seconds since the import began
	Bytes  int64      `json:"bytes"`            // of the file
	Ranges [][2]int64 `json:"ranges,omitempty"` // offset and length; none: all of it
}

// Size returns how many bytes were read.
func (r *Read) Size() (n int64) {
	for _, part := range r.Ranges {
		n += max(0, min(part[1], r.Bytes-part[0]))
	}
	if len(r.Ranges) == 0 {
		n = r.Bytes
	}
	return n
}

// Bounds of what is remembered of an import.
const (
	maxModules     = 32
	maxReads       = 1 << 14
	maxRanges      = 1 << 14 // of one file
	maxImportBytes = 8 << 20
	importTime     = time.Minute
	readStep       = 64 << 10 // what is fetched at once: a frame
)

var moduleName = lateregexp.New(`^[A-Za-z_][A-Za-z0-9_]{0,127}(?:\.[A-Za-z_][A-Za-z0-9_]{0,127}){0,7}$`)

// Check reports, by a nil error, whether what is said of an import has its form. None has.
func (i *Import) Check() error {
	if i == nil {
		return nil
	}
	ok := len(i.Modules) <= maxModules && len(i.Reads) <= maxReads && len(i.Error) <= 2000 && len(i.With) <= 64 && plausible(i.Seconds)
	for _, m := range i.Modules {
		ok = ok && moduleName().MatchString(m)
	}
	for _, r := range i.Reads {
		ok = ok && r.Path != "" && len(r.Path) <= 4096 && path.Clean("/"+r.Path) == "/"+r.Path && plausible(r.At) && r.Bytes >= 0 && len(r.Ranges) <= maxRanges
		for _, part := range r.Ranges {
			ok = ok && part[0] >= 0 && part[1] > 0 && part[0] < math.MaxInt64-part[1]
		}
	}
	if !ok {
		return errors.New("what is said of an import is malformed")
	}
	return nil
}

// Bytes returns how many bytes were read.
func (i *Import) Bytes() (n int64) {
	for k := range i.Reads {
		n += i.Reads[k].Size()
	}
	return n
}

// plausible reports whether seconds are a time that an import may take.
func plausible(seconds float64) bool { return seconds >= 0 && seconds <= importTime.Seconds() }

// ModulesOf returns the modules that a package's users import, of the paths of its files
// and the folders that Python looks into: the topmost ones, and of packages without a module of
// their own, as namespaces are, those below. Private ones and tests are left out.
func ModulesOf(paths []string, sites ...string) []string {
	var inside []string
	for _, p := range paths {
		for _, s := range sites {
			if rest, ok := strings.CutPrefix(p, s+"/"); ok {
				inside = append(inside, rest)
				break
			}
		}
	}
	slices.Sort(inside)
	has := make(map[string]bool)
	for _, p := range inside {
		has[p] = true
	}
	var out []string
	for _, p := range inside {
		name, ok := moduleOf(p)
		if !ok || slices.Contains(out, name) {
			continue
		}
		first := true // no folder above is a module
		for dir := path.Dir(p); dir != "." && first; dir = path.Dir(dir) {
			first = path.Base(p) == "__init__.py" && dir == path.Dir(p) || !has[dir+"/__init__.py"]
		}
		if first && len(out) < maxModules {
			out = append(out, name)
		}
	}
	return out
}

// moduleOf returns the module that a file is, by its path.
func moduleOf(file string) (name string, ok bool) {
	base := path.Base(file)
	stem, _, _ := strings.Cut(base, ".")
	switch {
	case base == "__init__.py":
		name = path.Dir(file)
	case strings.HasSuffix(base, ".py"), strings.HasSuffix(base, ".so"):
		name = path.Join(path.Dir(file), stem)
	default:
		return "", false
	}
	for part := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(part, "_") || strings.Contains(part, ".") || slices.Contains([]string{"test", "tests", "testing", "examples", "docs", "benchmarks", "bin"}, part) {
			return "", false
		}
	}
	name = strings.ReplaceAll(name, "/", ".")
	return name, moduleName().MatchString(name)
}

// MeasureImport imports modules by the Python in the tree at root, in a sandbox, with the
// files below the folder files as if they were in that tree; sites are those of its folders
// that Python looks into. Reads tells of all files there. An import that fails is no error.
func MeasureImport(ctx context.Context, root, files string, sites, modules []string) (*Import, error) {
	const at = "/run/rivulet/files"
	paths := make([]string, len(sites))
	for i, s := range sites {
		paths[i] = at + "/" + s
	}
	ask, err := json.Marshal(map[string]any{"prefix": at, "paths": paths, "modules": modules, "step": readStep})
	if err != nil {
		return nil, err
	}
	measured := &Import{Modules: modules}
	var out bytes.Buffer
	err = sandbox.Run(ctx, sandbox.Spec{
		Root: root, Args: []string{"python3", "-I", "-B", "-c", importsScript}, Env: environment, Stdin: bytes.NewReader(ask), Stdout: &out,
		Binds:  []sandbox.Bind{{Source: files, Dest: at}},
		Limits: sandbox.Limits{Memory: 1 << 30, Output: maxImportBytes, Time: importTime, CPU: importTime, Processes: 128},
	})
	var failed *sandbox.Error
	if errors.As(err, &failed) {
		measured.Error = failed.Error()[:min(len(failed.Error()), 500)]
		return measured, nil
	}
	if err != nil {
		return nil, fmt.Errorf("import %s: %w", strings.Join(modules, ", "), err)
	}
	var answer struct {
		Seconds float64   `json:"seconds"`
		Error   string    `json:"error"`
		Reads   []rawRead `json:"reads"`
	}
	if err := json.Unmarshal(out.Bytes(), &answer); err != nil || len(answer.Reads) > maxReads {
		measured.Error = "its answer is not understood"
		return measured, nil
	}
	measured.Seconds, measured.Error = answer.Seconds, answer.Error
	for _, r := range answer.Reads {
		measured.Reads = append(measured.Reads, Read(r))
	}
	if err := measured.Check(); err != nil { // a module may have written this
		return &Import{Modules: modules, Error: err.Error()}, nil
	}
	return measured, nil
}

// A rawRead is a Read as the script writes it: an array.
type rawRead Read

// UnmarshalJSON implements json.Unmarshaler.
func (r *rawRead) UnmarshalJSON(b []byte) error {
	return json.Unmarshal(b, &[]any{&r.Path, &r.At, &r.Bytes, &r.Ranges})
}
