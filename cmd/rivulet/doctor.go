package main

import (
	"context"
	"os"
	"os/exec"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/frontend/kernelnbd"
)

// A finding is what doctor says of one ability of this machine.
type finding struct {
	What   string `json:"what"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`     // what was seen
	Advice string `json:"advice"`     // how to get what is missing, if it is
	Needed string `json:"needed_for"` // which command uses it
}

func (a *app) doctorCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "doctor",
		Short:   "Tell what this machine can do, and how to get what is missing",
		Example: `  rivulet doctor`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			findings := a.examine(cmd.Context())
			if asJSON {
				return a.printJSON(findings)
			}
			for _, f := range findings {
				mark := "ok     "
				if !f.OK {
					mark = "missing"
				}
				a.printf("%s  %-12s %s (for %s)\n", mark, f.What, f.Detail, f.Needed)
				if !f.OK {
					a.printf("         %-12s %s\n", "", f.Advice)
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

// examine looks without changing anything.
func (a *app) examine(ctx context.Context) []finding {
	findings := []finding{
		a.examineStore(ctx),
		{What: "system", OK: runtime.GOOS == "linux", Detail: runtime.GOOS + "/" + runtime.GOARCH, Needed: "mount", Advice: "publish, serve, cat, export and verify work here; mount needs Linux"},
		{What: "root", OK: os.Geteuid() == 0, Detail: "effective user " + userName(), Needed: "mount", Advice: "run as root, or show the disk as a file: rivulet mount --file IMAGE DIR"},
		device("fuse", "/dev/fuse", "mount", "load the module: modprobe fuse"),
		device("loop", "/dev/loop-control", "mount", "load the module: modprobe loop"),
		program("fusermount", []string{"fusermount3", "fusermount"}, "mount --file without root", "install the package fuse3"),
		kernelNBD(),
		device("kvm", "/dev/kvm", "running virtual machines at full speed", "enable virtualisation in the firmware, or nested virtualisation; emulated machines need none"),
		program("igzip", []string{"igzip"}, "publishing faster", "install the package isal"),
		program("qemu", []string{"qemu-system-x86_64", "qemu-system-aarch64", "qemu-kvm"}, "virtual machines from a served disk", "install the package qemu-system"),
	}
	return findings
}

func (a *app) examineStore(ctx context.Context) finding {
	f := finding{What: "store", Needed: "everything", Advice: "choose another place with --store or RIVULET_STORE"}
	url, err := a.chosenStore()
	if err == nil {
		f.Detail = url
		if _, err = a.openOrigin(ctx, false); err != nil {
			f.Advice = err.Error() + "; 'rivulet publish' makes one"
		}
	} else {
		f.Detail = err.Error()
	}
	f.OK = err == nil
	return f
}

// device looks whether a device can be opened.
func device(what, path, needed, advice string) finding {
	f := finding{What: what, Needed: needed, Detail: path, Advice: advice}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		f.Detail = err.Error()
		if os.IsPermission(err) {
			f.Advice = "run as root, or join the group that owns " + path
		}
		return f
	}
	_ = file.Close()
	f.OK = true
	return f
}

// kernelNBD looks whether the kernel has an NBD client.
func kernelNBD() finding {
	f := finding{What: "nbd", Needed: "mount --nbd, nbd-client", Detail: "the kernel has a client", OK: true}
	if err := kernelnbd.Supported(); err != nil {
		f.OK, f.Detail, f.Advice = false, err.Error(), "load the module: modprobe nbd; QEMU and libnbd need none"
	}
	return f
}

// program looks for the first of several programs.
func program(what string, names []string, needed, advice string) finding {
	f := finding{What: what, Needed: needed, Detail: "not found", Advice: advice}
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			f.OK, f.Detail = true, path
			break
		}
	}
	return f
}

func userName() string {
	if u := os.Getenv("USER"); u != "" {
		return u
	}
	if os.Geteuid() == 0 {
		return "root"
	}
	return "without a name"
}
