package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// A Kernel is a Linux kernel with the modules that guests need.
type Kernel struct {
	Version string   `json:"version"` // as uname -r has it
	Arch    string   `json:"arch"`    // as Go spells it: amd64, arm64
	Modules []string `json:"modules"` // files in modules/, each after those that it needs

	dir string
}

// Files of a kernel's folder, beside kernel.json.
const (
	imageFile    = "image"   // as the distribution has it: bzImage, or Image
	vmlinuxFile  = "vmlinux" // the same, unpacked, as ELF; amd64 only
	modulesDir   = "modules"
	describeFile = "kernel.json"
)

// wantModules are what a guest may need, by the name without ".ko". Each is loaded
// if the kernel has it as a module. ext4 asks for crc32c by what it does, and says
// nowhere that it depends on it.
var wantModules = []string{
	"virtio_mmio", "virtio_pci", "virtio_blk", "virtio_console", "vmw_vsock_virtio_transport",
	"crc32c_generic", "ext4", "overlay", "virtio_rng",
}

// needModules are those without which no disk is found: built in, or as a module.
var needModules = []string{"virtio_blk", "ext4"}

// Image returns the path of the kernel as the distribution has it, which QEMU and
// Cloud Hypervisor boot.
func (k *Kernel) Image() string { return filepath.Join(k.dir, imageFile) }

// ELF returns the path of the unpacked kernel, which Firecracker boots.
func (k *Kernel) ELF() string {
	if k.Arch == "amd64" {
		return filepath.Join(k.dir, vmlinuxFile)
	}
	return k.Image()
}

// OpenKernel opens a folder that ImportTree or ImportDeb made.
func OpenKernel(dir string) (*Kernel, error) {
	b, err := os.ReadFile(filepath.Join(dir, describeFile))
	if err != nil {
		return nil, fmt.Errorf("open kernel: %w", err)
	}
	k := &Kernel{dir: dir}
	if err := json.Unmarshal(b, k); err != nil {
		return nil, fmt.Errorf("open kernel %s: %w", dir, err)
	}
	for _, m := range k.Modules {
		if m != filepath.Base(m) {
			return nil, fmt.Errorf("open kernel %s: module %q is not a file of its folder", dir, m)
		}
	}
	return k, nil
}

// Kernels returns the kernels in the folders of dir, newest version last. A dir that
// is not there has none.
func Kernels(dir string) ([]*Kernel, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list kernels: %w", err)
	}
	var list []*Kernel
	for _, e := range entries {
		k, err := OpenKernel(filepath.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // not a kernel's, or one that is being made
		}
		if err != nil {
			return nil, err
		}
		list = append(list, k)
	}
	slices.SortFunc(list, func(a, b *Kernel) int { return compareVersions(a.Version, b.Version) })
	return list, nil
}

// ImportDeb takes the kernel out of a Debian package, linux-image-VERSION, into a
// folder of dir. It needs the program dpkg-deb.
func ImportDeb(deb, dir string) (*Kernel, error) {
	tool, err := exec.LookPath("dpkg-deb")
	if err != nil {
		return nil, fmt.Errorf("import kernel %s: program dpkg-deb is not there (package dpkg): unpack the package elsewhere and import the tree", deb)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	tree, err := os.MkdirTemp(dir, ".deb-*")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(tree) }()
	if out, err := exec.Command(tool, "--extract", deb, tree).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("import kernel %s: dpkg-deb: %w: %s", deb, err, strings.TrimSpace(string(out)))
	}
	return ImportTree(tree, dir)
}

// ImportTree takes a kernel out of an unpacked package, or a root file system:
// tree/boot/vmlinuz-VERSION with tree/lib/modules/VERSION. There must be exactly one.
// It becomes the folder dir/VERSION, which appears whole or not at all; one that is
// there is replaced.
func ImportTree(tree, dir string) (*Kernel, error) {
	k, err := importTree(tree, dir)
	if err != nil {
		return nil, fmt.Errorf("import kernel from %s: %w", tree, err)
	}
	return k, nil
}

func importTree(tree, dir string) (*Kernel, error) {
	image, version, err := findImage(tree)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp(dir, ".import-*")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	k := &Kernel{Version: version, dir: filepath.Join(dir, version)}
	if k.Arch, err = copyImage(image, tmp); err != nil {
		return nil, err
	}
	if k.Modules, err = copyModules(moduleRoot(tree, version), filepath.Join(tmp, modulesDir)); err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(k, "", "\t")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(tmp, describeFile), append(b, '\n'), 0o644); err != nil {
		return nil, err
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(k.dir); err != nil {
		return nil, err
	}
	return k, os.Rename(tmp, k.dir)
}

// findImage returns the kernel of a tree, and its version.
func findImage(tree string) (path, version string, err error) {
	list, err := filepath.Glob(filepath.Join(tree, "boot", "vmlinuz-*"))
	if err != nil {
		return "", "", err
	}
	if len(list) != 1 {
		return "", "", fmt.Errorf("%d files boot/vmlinuz-*: want one", len(list))
	}
	version = strings.TrimPrefix(filepath.Base(list[0]), "vmlinuz-")
	return list[0], version, nil
}

// moduleRoot is where a version's modules are: some packages have them below usr.
func moduleRoot(tree, version string) string {
	for _, lib := range []string{"lib", "usr/lib"} {
		if dir := filepath.Join(tree, lib, "modules", version); isDir(dir) {
			return dir
		}
	}
	return filepath.Join(tree, "lib", "modules", version)
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// copyImage copies the kernel, unpacks it where that has a meaning, and tells for
// which architecture it is.
func copyImage(image, to string) (arch string, err error) {
	b, err := readBounded(image, maxImage)
	if err != nil {
		return "", err
	}
	switch {
	case isBzImage(b):
		elf, err := unpackBzImage(b)
		if err != nil {
			return "", fmt.Errorf("unpack %s: %w", image, err)
		}
		if err := os.WriteFile(filepath.Join(to, vmlinuxFile), elf, 0o644); err != nil {
			return "", err
		}
		arch = "amd64"
	case isArm64Image(b):
		arch = "arm64"
	default:
		return "", fmt.Errorf("%s is neither an x86 bzImage nor an arm64 Image", image)
	}
	return arch, os.WriteFile(filepath.Join(to, imageFile), b, 0o644)
}

// maxImage bounds a kernel, packed or not, in bytes.
const maxImage = 256 << 20

// readBounded reads a whole file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s: larger than %d bytes", path, limit)
	}
	return b, err
}

// compareVersions orders 6.1.0-9 before 6.1.0-10: runs of digits count as numbers.
func compareVersions(a, b string) int {
	for a != "" && b != "" {
		na, nb := digits(a), digits(b)
		if na > 0 && nb > 0 {
			da, db := strings.TrimLeft(a[:na], "0"), strings.TrimLeft(b[:nb], "0")
			if len(da) != len(db) {
				return len(da) - len(db)
			}
			if c := strings.Compare(da, db); c != 0 {
				return c
			}
			a, b = a[na:], b[nb:]
			continue
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}
