package python

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	_ "embed"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/rivuletfs/rivulet/internal/lateregexp"
	"github.com/rivuletfs/rivulet/packages/sandbox"
	"github.com/rivuletfs/rivulet/packages/wheel"
)

//go:embed build.py
var buildScript string

const (
	maxSourceBytes  = 2 << 30 // of a source distribution, unpacked, as far as it is read here
	maxProjectBytes = 1 << 20 // of a pyproject.toml
	maxBuiltBytes   = 1 << 30 // of a wheel that was built
	maxBackendNames = 64
)

// BuildLimits bounds the building of one source distribution.
var BuildLimits = sandbox.Limits{Memory: 500 << 20, Disk: 1 << 30, Output: maxBuiltBytes}

// A Source is a source distribution that can be built.
type Source struct {
	Name, Version string   // as the file's name has them
	Requires      []string // PEP 508 requirements of the build

	file    string
	backend string
	path    []string
}

var (
	sourceName     = lateregexp.New(`^([A-Za-z0-9][A-Za-z0-9._-]*)-([0-9][A-Za-z0-9._+!]*)\.tar\.gz$`)
	backendPattern = lateregexp.New(`^[A-Za-z_][A-Za-z0-9_.]*(?::[A-Za-z_][A-Za-z0-9_.]*)?$`)
)

// SourceName returns name and version of a source distribution by its file's name.
func SourceName(file string) (name, version string, err error) {
	m := sourceName().FindStringSubmatch(file)
	if m == nil {
		return "", "", fmt.Errorf("%.200q is no source distribution's name: want NAME-VERSION.tar.gz", file)
	}
	return m[1], m[2], nil
}

// OpenSource reads how a source distribution is built: its pyproject.toml, or without
// one, by setuptools. It runs nothing.
func OpenSource(file string) (*Source, error) {
	s := &Source{file: file}
	var err error
	if s.Name, s.Version, err = SourceName(filepath.Base(file)); err != nil {
		return nil, err
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	project, err := findProject(f)
	if err != nil {
		return nil, fmt.Errorf("read source distribution: %w", err)
	}
	return s, s.configure(project)
}

// findProject returns the pyproject.toml of an archive's top folder, or nothing.
func findProject(r io.Reader) ([]byte, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, err
	}
	in := &io.LimitedReader{R: z, N: maxSourceBytes}
	t := tar.NewReader(in)
	for {
		h, err := t.Next()
		if err == io.EOF {
			return nil, nil
		}
		if in.N <= 0 {
			return nil, fmt.Errorf("more than %d bytes unpacked", int64(maxSourceBytes))
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return nil, err
		}
		dir, name := path.Split(path.Clean(h.Name))
		if name != "pyproject.toml" || strings.Count(dir, "/") != 1 || h.Typeflag != tar.TypeReg {
			continue
		}
		if h.Size > maxProjectBytes {
			return nil, fmt.Errorf("pyproject.toml of %d bytes: at most %d are supported", h.Size, maxProjectBytes)
		}
		return io.ReadAll(t)
	}
}

func (s *Source) configure(project []byte) error {
	var p struct {
		System *struct {
			Requires []string `toml:"requires"`
			Backend  string   `toml:"build-backend"`
			Path     []string `toml:"backend-path"`
		} `toml:"build-system"`
	}
	if err := toml.Unmarshal(project, &p); err != nil {
		return fmt.Errorf("pyproject.toml: %w", err)
	}
	s.backend, s.Requires = "setuptools.build_meta:__legacy__", []string{"setuptools>=40.8.0", "wheel"}
	if p.System == nil {
		return nil
	}
	s.Requires, s.path = p.System.Requires, p.System.Path
	if p.System.Backend != "" {
		s.backend = p.System.Backend
	} else if len(s.Requires) == 0 {
		s.Requires = []string{"setuptools>=40.8.0"}
	}
	if !backendPattern().MatchString(s.backend) || len(s.path) > maxBackendNames || len(s.Requires) > maxBackendNames {
		return fmt.Errorf("pyproject.toml: build system %.100q", s.backend)
	}
	return nil
}

// run runs the script on the source, with the packages in the folder env.
func (s *Source) run(ctx context.Context, root, what, env string, out io.Writer) error {
	paths := s.path
	if paths == nil {
		paths = []string{}
	}
	ask, err := json.Marshal(struct {
		Backend string   `json:"backend"`
		Path    []string `json:"path"`
	}{s.backend, paths})
	if err != nil {
		return err
	}
	return sandbox.Run(ctx, sandbox.Spec{
		Root: root, Args: []string{"python3", "-c", buildScript, what}, Stdin: bytes.NewReader(ask), Stdout: out,
		// A fixed date, the earliest that zip files have.
		Env: append([]string{"PYTHONPATH=/run/rivulet/env/site", "PYTHONDONTWRITEBYTECODE=1", "SOURCE_DATE_EPOCH=315532800"}, environment...),
		Binds: []sandbox.Bind{
			{Source: s.file, Dest: "/run/rivulet/sdist.tar.gz"},
			{Source: env, Dest: "/run/rivulet/env"},
		},
		Limits: BuildLimits,
	})
}

// MoreRequires asks the build system, with Requires in env, what else it needs.
func (s *Source) MoreRequires(ctx context.Context, root, env string) ([]string, error) {
	var out bytes.Buffer
	if err := s.run(ctx, root, "requires", env, &out); err != nil {
		return nil, fmt.Errorf("ask the build: %w", err)
	}
	var more []string
	if err := json.Unmarshal(out.Bytes(), &more); err != nil || len(more) > maxBackendNames {
		return nil, errors.New("ask the build: it answers no list of requirements")
	}
	return more, nil
}

// Build builds the source on the tree at root, with what it requires in the folder env,
// and writes the wheel into the folder to. It returns the wheel's path.
func (s *Source) Build(ctx context.Context, root, env, to string) (string, error) {
	f, err := os.CreateTemp(to, ".built-*")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	err = s.run(ctx, root, "build", env, f)
	var name string
	if err == nil {
		name, err = splitBuilt(f)
	}
	if err == nil {
		err = s.copyBuilt(f, filepath.Join(to, name))
	}
	return filepath.Join(to, name), errors.Join(err, f.Close())
}

var errNoWheel = errors.New("the build gave no wheel")

// splitBuilt reads the name before a wheel.
func splitBuilt(f io.ReadSeeker) (string, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	var n uint32
	if err := binary.Read(f, binary.LittleEndian, &n); err != nil || n > 255 {
		return "", errNoWheel
	}
	name := make([]byte, n)
	if _, err := io.ReadFull(f, name); err != nil {
		return "", errNoWheel
	}
	if _, err := wheel.TagsOf(string(name)); err != nil || strings.ContainsAny(string(name), "/\x00") {
		return "", fmt.Errorf("%w, but %q", errNoWheel, name)
	}
	return string(name), nil
}

func (s *Source) copyBuilt(f io.Reader, to string) (err error) {
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = io.Copy(out, f)
	return err
}
