package vm

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// maxModule bounds a kernel module, in bytes.
const maxModule = 64 << 20

// A moduleTree is a kernel's modules by name, as lsmod spells it.
type moduleTree struct {
	files   map[string]string
	builtin map[string]bool

	to    string   // folder that they are copied to
	order []string // what was copied
	state map[string]int
}

// States of a module while the tree is walked.
const (
	visiting = 1 + iota
	copied
)

// copyModules copies what wantModules names, and what that needs, unpacked. It
// returns the file names, each after those that it needs. What a module needs is
// said in itself, so that nothing is asked of depmod.
func copyModules(root, to string) ([]string, error) {
	t := &moduleTree{files: map[string]string{}, builtin: map[string]bool{}, to: to, state: map[string]int{}}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return nil, err
	}
	if err := t.find(root); err != nil {
		return nil, err
	}
	for _, name := range wantModules {
		if t.files[name] == "" && !t.builtin[name] {
			continue
		}
		if err := t.add(name); err != nil {
			return nil, err
		}
	}
	for _, name := range needModules {
		if t.state[name] != copied {
			return nil, fmt.Errorf("the kernel has no %s, neither built in nor as a module in %s", name, root)
		}
	}
	return t.order, nil
}

// find lists the modules below root.
func (t *moduleTree) find(root string) error {
	err := filepath.WalkDir(filepath.Join(root, "kernel"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name, ok := moduleName(path); ok && d.Type().IsRegular() {
			t.files[name] = path
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	b, err := readBounded(filepath.Join(root, "modules.builtin"), maxModule)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for line := range strings.Lines(string(b)) {
		if name, ok := moduleName(strings.TrimSpace(line)); ok {
			t.builtin[name] = true
		}
	}
	return nil
}

// moduleName returns the name of the module in a file.
func moduleName(path string) (string, bool) {
	name, _, ok := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_"), ok && name != ""
}

// add copies a module after those that it needs.
func (t *moduleTree) add(name string) error {
	switch {
	case t.state[name] == copied:
		return nil
	case t.state[name] == visiting:
		return fmt.Errorf("module %s needs itself", name)
	case t.files[name] == "" && t.builtin[name]:
		t.state[name] = copied
		return nil
	case t.files[name] == "":
		return fmt.Errorf("module %s is not there, and another needs it", name)
	}
	t.state[name] = visiting
	b, err := readModule(t.files[name])
	if err != nil {
		return fmt.Errorf("module %s: %w", name, err)
	}
	needs, err := moduleNeeds(b)
	if err != nil {
		return fmt.Errorf("module %s: %w", name, err)
	}
	for _, n := range needs {
		if err := t.add(n); err != nil {
			return err
		}
	}
	file := name + ".ko"
	if err := os.WriteFile(filepath.Join(t.to, file), b, 0o644); err != nil {
		return err
	}
	t.order, t.state[name] = append(t.order, file), copied
	return nil
}

// moduleNeeds returns the modules that a module says it depends on, in its section
// .modinfo.
func moduleNeeds(b []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, errors.New("no section .modinfo")
	}
	info, err := s.Data()
	if err != nil {
		return nil, err
	}
	var names []string
	for field := range bytes.SplitSeq(info, []byte{0}) {
		if list, ok := strings.CutPrefix(string(field), "depends="); ok && list != "" {
			for name := range strings.SplitSeq(list, ",") {
				names = append(names, strings.ReplaceAll(name, "-", "_"))
			}
		}
	}
	return names, nil
}

// readModule reads a module and unpacks it, as its name says it is packed.
func readModule(path string) ([]byte, error) {
	if strings.HasSuffix(path, ".xz") {
		return unxz(path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var r io.Reader = f
	switch filepath.Ext(path) {
	case ".zst":
		d, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		defer d.Close()
		r = d
	case ".gz":
		if r, err = gzip.NewReader(f); err != nil {
			return nil, err
		}
	}
	return readModuleBytes(r)
}

func readModuleBytes(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err == nil && len(b) > maxModule {
		err = fmt.Errorf("larger than %d bytes", maxModule)
	}
	return b, err
}

// unxz runs the program xz: no Go library of it is kept.
func unxz(path string) ([]byte, error) {
	tool, err := exec.LookPath("xz")
	if err != nil {
		return nil, errors.New("program xz is not there, and the module is packed with it (package xz-utils)")
	}
	cmd := exec.Command(tool, "--decompress", "--stdout", path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	b, err := readModuleBytes(out)
	_ = out.Close() // xz ends then, if it has not
	if waitErr := cmd.Wait(); err == nil && waitErr != nil {
		err = fmt.Errorf("xz: %w", waitErr)
	}
	return b, err
}
