package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"github.com/rivuletfs/rivulet/vm/guest"
)

// Ways to run a guest's instructions.
const (
	AccelAuto = "auto" // KVM where it can be opened, else emulation
	AccelKVM  = "kvm"
	AccelTCG  = "tcg" // emulation: slow, and works anywhere
)

// A QEMU runs machines by qemu-system-ARCH: on amd64 its microvm, on arm64 its virt.
type QEMU struct {
	Program string   // "": qemu-system-ARCH in PATH
	Accel   string   // "": AccelAuto
	Args    []string // more of them, at the end
}

var _ VMM = QEMU{}

// Name returns "qemu".
func (QEMU) Name() string { return "qemu" }

// Transport returns guest.Serial: a vsock of QEMU's needs a kernel driver on the host.
func (QEMU) Transport() string { return guest.Serial }

// End returns guest.Reboot: QEMU is told not to.
func (QEMU) End() string { return guest.Reboot }

func (q QEMU) check(m *Machine) error {
	if (m.Drive.NBD == "") == (m.Drive.VhostUser == "") {
		return errors.New("want a disk over either NBD or vhost-user-blk")
	}
	switch q.Accel {
	case "", AccelAuto, AccelKVM, AccelTCG:
		return nil
	}
	return fmt.Errorf("accelerator %q: want %s, %s or %s", q.Accel, AccelAuto, AccelKVM, AccelTCG)
}

// emulates reports whether the guest is emulated.
func (q QEMU) emulates(m *Machine) bool {
	switch q.Accel {
	case AccelKVM:
		return false
	case AccelTCG:
		return true
	}
	if m.Kernel.Arch != runtime.GOARCH {
		return true
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return true
	}
	_ = f.Close()
	return false
}

func (q QEMU) kernelArgs(m *Machine) []string {
	if m.Kernel.Arch != "amd64" {
		return []string{"console=ttyAMA0"}
	}
	args := []string{"console=ttyS0", "reboot=t"}
	if q.emulates(m) {
		// A microvm has no timer to measure the time stamp counter by: a kernel that
		// is not told its rate may wait for ever while it tries.
		args = append(args, "mitigations=off", "cryptomgr.notests", "tsc=reliable", "tsc_early_khz="+strconv.Itoa(hostKHz()))
	}
	return args
}

func (QEMU) device(*Machine) string { return "/dev/vda" }

func (q QEMU) command(m *Machine) (*exec.Cmd, error) {
	program := q.Program
	if program == "" {
		program = map[string]string{"amd64": "qemu-system-x86_64", "arm64": "qemu-system-aarch64"}[m.Kernel.Arch]
	}
	path, err := exec.LookPath(program)
	if err != nil {
		return nil, fmt.Errorf("%w: install QEMU (on Debian: apt-get install qemu-system)", err)
	}
	return exec.Command(path, q.args(m)...), nil
}

// args returns the command line.
func (q QEMU) args(m *Machine) []string {
	machine := "virt,gic-version=3"
	if m.Kernel.Arch == "amd64" {
		machine = "microvm,x-option-roms=off,rtc=on"
	}
	// vhost-user needs memory that can be shared.
	size := strconv.FormatInt(m.mebibytes(), 10) + "M"
	args := []string{
		"-machine", machine + ",memory-backend=memory",
		"-object", "memory-backend-memfd,id=memory,share=on,size=" + size,
		"-m", size, "-smp", strconv.Itoa(m.CPUs),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-global", "virtio-mmio.force-legacy=false",
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-kernel", m.Kernel.Image(), "-initrd", m.initrd(), "-append", m.cmdline,
		"-device", "virtio-rng-device",
		"-device", "virtio-serial-device",
	}
	if q.emulates(m) {
		args = append(args, "-accel", "tcg,tb-size=256", "-cpu", "max")
	} else {
		args = append(args, "-accel", "kvm", "-cpu", "host")
	}
	for _, c := range guest.Channels() {
		args = append(args, "-chardev", "socket,id="+c.Name+",path="+comma(m.serialSocket(c)),
			"-device", "virtserialport,chardev="+c.Name+",name="+c.SerialName())
	}
	if m.Drive.VhostUser != "" {
		args = append(args, "-chardev", "socket,id=disk,reconnect=1,path="+comma(m.Drive.VhostUser),
			"-device", "vhost-user-blk,chardev=disk,num-queues="+strconv.Itoa(max(1, m.Drive.Queues)))
	} else {
		readOnly := "on"
		if m.Drive.Writable {
			readOnly = "off"
		}
		args = append(args, "-drive", "if=none,id=disk,format=raw,cache=none,discard=unmap,readonly="+readOnly+",file="+comma(m.Drive.NBD),
			"-device", "virtio-blk-device,drive=disk")
	}
	return append(args, q.Args...)
}

// comma doubles commas, as QEMU's options want them.
func comma(s string) string { return strings.ReplaceAll(s, ",", ",,") }

func (QEMU) boot(context.Context, *Machine) error { return nil } // it does that by itself

// hostKHz is the rate of the host's time stamp counter, as near as can be known: the
// guest goes by it until it has a better clock.
func hostKHz() int {
	b, err := readBounded("/proc/cpuinfo", 16<<20)
	if err == nil {
		for line := range strings.Lines(string(b)) {
			name, value, _ := strings.Cut(line, ":")
			if strings.TrimSpace(name) != "cpu MHz" {
				continue
			}
			if mhz, err := strconv.ParseFloat(strings.TrimSpace(value), 64); err == nil && mhz > 100 && mhz < 100_000 {
				return int(mhz * 1000)
			}
		}
	}
	return 2_000_000
}
