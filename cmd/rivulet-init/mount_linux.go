package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/vm/guest"
)

// Folders of the initrd.
const (
	rootDir  = "/root" // where the process's root comes together
	lowerDir = "/lower"
	spaceDir = "/space" // memory for writes
)

// A mount is one call of mount(2).
type mount struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

func (m mount) do() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s at %s: %w", m.kind, m.target, err)
	}
	return nil
}

func mountAll(list ...mount) error {
	for _, m := range list {
		if err := m.do(); err != nil {
			return err
		}
	}
	return nil
}

const quiet = unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV

func mountKernelFiles() error {
	return mountAll(
		mount{"proc", "/proc", "proc", quiet, ""},
		mount{"sysfs", "/sys", "sysfs", quiet, ""},
		mount{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=755"},
	)
}

// loadModules loads kernel modules in order. One that is loaded already, or whose
// device is not there, is right.
func loadModules(files []string) error {
	for _, name := range files {
		f, err := os.Open(filepath.Join(guest.ModuleDir, filepath.Base(name)))
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		_ = f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("load module %s: %w", name, err)
		}
	}
	return nil
}

// deviceTime bounds the wait for a device to appear: drivers look for theirs in the
// background.
const deviceTime = 30 * time.Second

// await waits until a file is there.
func await(path string) error {
	for begin := time.Now(); ; time.Sleep(2 * time.Millisecond) {
		_, err := os.Stat(path)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if time.Since(begin) > deviceTime {
			return fmt.Errorf("%s has not appeared within %v", path, deviceTime)
		}
	}
}

// mountRoot mounts the disk at rootDir: as it is where it takes writes, and else
// with memory over it, so that a process that must write can.
func mountRoot(c *guest.Config) error {
	if err := await(c.Device); err != nil {
		return err
	}
	if c.Writable {
		return mount{c.Device, rootDir, "ext4", 0, "discard"}.do()
	}
	// Without a recovered journal a disk that was cut off while it was written could
	// not be read; ours never was.
	if err := (mount{c.Device, lowerDir, "ext4", unix.MS_RDONLY, "noload"}).do(); err != nil {
		return err
	}
	if err := (mount{"tmpfs", spaceDir, "tmpfs", 0, "mode=755"}).do(); err != nil {
		return err
	}
	upper, work := filepath.Join(spaceDir, "upper"), filepath.Join(spaceDir, "work")
	for _, dir := range []string{upper, work} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	over := mount{"overlay", rootDir, "overlay", 0, "lowerdir=" + lowerDir + ",upperdir=" + upper + ",workdir=" + work}
	err := over.do()
	if errors.Is(err, unix.ENODEV) { // a kernel without overlayfs
		return mount{lowerDir, rootDir, "", unix.MS_BIND, ""}.do()
	}
	return err
}

// enterRoot makes rootDir the root. The initrd stays below it, out of reach.
func enterRoot() error {
	for _, dir := range []string{"dev", "proc", "sys"} {
		if err := (mount{"/" + dir, filepath.Join(rootDir, dir), "", unix.MS_MOVE, ""}).do(); err != nil {
			return err
		}
	}
	if err := os.Chdir(rootDir); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("enter the root: %w", err)
	}
	return os.Chdir("/")
}

// prepare gives the root what container engines give it.
func prepare(c *guest.Config) error {
	err := mountAll(
		mount{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620,gid=5"},
		mount{"shm", "/dev/shm", "tmpfs", quiet, "mode=1777"},
		mount{"mqueue", "/dev/mqueue", "mqueue", quiet, ""},
		mount{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
	)
	if err != nil {
		return err
	}
	for link, target := range map[string]string{
		"/dev/ptmx": "pts/ptmx", "/dev/fd": "/proc/self/fd",
		"/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
	} {
		_ = os.Remove(link)
		if err := os.Symlink(target, link); err != nil {
			return err
		}
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	if c.Hostname != "" {
		if err := unix.Sethostname([]byte(c.Hostname)); err != nil {
			return fmt.Errorf("set host name: %w", err)
		}
	}
	return hostFiles(c.Hostname)
}

// hostFiles lays /etc/hostname and /etc/hosts over the image's, which have nothing
// to say of this guest. An image without /etc can do without them.
func hostFiles(name string) error {
	if name == "" {
		name = "localhost"
	}
	for file, text := range map[string]string{
		"hostname": name + "\n",
		"hosts":    "127.0.0.1\tlocalhost " + name + "\n::1\tlocalhost ip6-localhost ip6-loopback\n",
	} {
		source, target := filepath.Join("/run/.rivulet", file), filepath.Join("/etc", file)
		if err := os.MkdirAll(filepath.Dir(source), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(source, []byte(text), 0o644); err != nil {
			return err
		}
		f, err := os.OpenFile(target, os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			continue
		}
		_ = f.Close()
		if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount over %s: %w", target, err)
		}
	}
	return nil
}

// loopbackUp brings the interface lo up.
func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bring up the loopback interface: %w", err)
	}
	defer func() { _ = unix.Close(s) }()
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, r); err != nil {
		return fmt.Errorf("bring up the loopback interface: %w", err)
	}
	return nil
}

// unmount brings all writes to the disk, and leaves it clean.
func unmount() {
	unix.Sync()
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		fmt.Fprintln(os.Stderr, "rivulet-init: remount the root read-only:", err)
	}
}
