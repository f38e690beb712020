package vm

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cavaliergopher/cpio"

	"github.com/rivuletfs/rivulet/vm/guest"
)

// writeInitrd writes the initial RAM file system of a guest: its init, the kernel's
// modules, and what it is to do. The format is "newc", as Linux reads it:
// Documentation/driver-api/early-userspace/buffer-format.rst.
func writeInitrd(path, initFile string, k *Kernel, c *guest.Config) error {
	config, err := c.Encode()
	if err != nil {
		return err
	}
	program, err := readBounded(initFile, maxImage)
	if err != nil {
		return fmt.Errorf("read init of guests: %w", err)
	}
	var buf bytes.Buffer
	w := cpio.NewWriter(&buf)
	for _, dir := range []string{"dev", "proc", "sys", "root", guest.ModuleDir[1:]} {
		if err := w.WriteHeader(&cpio.Header{Name: dir, Mode: cpio.TypeDir | 0o755, Links: 2}); err != nil {
			return err
		}
	}
	if err := addFile(w, guest.InitPath, 0o755, program); err != nil {
		return err
	}
	if err := addFile(w, guest.ConfigPath, 0o600, config); err != nil {
		return err
	}
	for _, m := range k.Modules {
		b, err := readBounded(filepath.Join(k.dir, modulesDir, m), maxModule)
		if err != nil {
			return fmt.Errorf("read module: %w", err)
		}
		if err := addFile(w, guest.ModuleDir+"/"+m, 0o644, b); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(path, buf.Bytes(), 0o600)
}

func addFile(w *cpio.Writer, path string, mode cpio.FileMode, b []byte) error {
	if err := w.WriteHeader(&cpio.Header{Name: path[1:], Mode: cpio.TypeReg | mode, Size: int64(len(b)), Links: 1}); err != nil {
		return err
	}
	_, err := w.Write(b)
	return err
}
