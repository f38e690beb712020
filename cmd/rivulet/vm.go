package main

import (
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/vm"
)

func (a *app) vmCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "vm",
		Short: "Run images in virtual machines",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.vmRunCommand(), a.vmKernelCommand())
	return cmd
}

func (a *app) vmKernelCommand() *cobra.Command {
	var deb, tree string
	var json bool
	cmd := &cobra.Command{
		Use:   "kernel",
		Short: "Take a kernel for virtual machines out of a package, or list those that there are",
		Long: `Kernel takes a Linux kernel, with the modules that a guest needs, out of a
distribution's package that you have, and keeps it in the user's data folder.
Without flags it lists the kernels that are there; 'rivulet vm run' takes the
newest unless it is told another.`,
		Example: `  apt-get download linux-image-6.1.0-56-cloud-amd64
  rivulet vm kernel --from-deb linux-image-6.1.0-56-cloud-amd64_*.deb

  rivulet vm kernel --from-tree /        # the one that this machine runs
  rivulet vm kernel`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if deb != "" && tree != "" {
				return usagef("--from-deb and --from-tree exclude one another")
			}
			dir, err := kernelDir()
			if err != nil {
				return err
			}
			if deb == "" && tree == "" {
				return a.listKernels(dir, json)
			}
			take := func() (*vm.Kernel, error) { return vm.ImportTree(tree, dir) }
			if deb != "" {
				take = func() (*vm.Kernel, error) { return vm.ImportDeb(deb, dir) }
			}
			k, err := take()
			if err != nil {
				return err
			}
			return a.showKernels([]*vm.Kernel{k}, json)
		},
	}
	f := cmd.Flags()
	f.StringVar(&deb, "from-deb", "", "take the kernel out of this Debian package")
	f.StringVar(&tree, "from-tree", "", "take the kernel out of this unpacked package or root file system: boot/vmlinuz-VERSION and lib/modules/VERSION")
	f.BoolVar(&json, "json", false, "print JSON")
	return cmd
}

// kernelDir is where the user's kernels are kept: beside the user's store.
func kernelDir() (string, error) {
	dir, err := dataDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "rivulet-kernels"), nil
}

func (a *app) listKernels(dir string, json bool) error {
	list, err := vm.Kernels(dir)
	if err != nil {
		return err
	}
	if len(list) == 0 && !json {
		a.note("rivulet: no kernel yet: 'rivulet vm kernel --from-deb FILE' takes one out of a package")
		return nil
	}
	return a.showKernels(list, json)
}

func (a *app) showKernels(list []*vm.Kernel, json bool) error {
	if json {
		for _, k := range list {
			if err := a.printJSON(k); err != nil {
				return err
			}
		}
		return nil
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "VERSION\tARCHITECTURE\tMODULES")
	for _, k := range list {
		fmt.Fprintf(w, "%s\t%s\t%d\n", k.Version, k.Arch, len(k.Modules))
	}
	return w.Flush()
}

// chosenKernel returns the kernel that the user means: by version, by folder, or the
// newest.
func chosenKernel(name string) (*vm.Kernel, error) {
	dir, err := kernelDir()
	if err != nil {
		return nil, err
	}
	if name != "" {
		if info, err := os.Stat(name); err == nil && info.IsDir() {
			return vm.OpenKernel(name)
		}
		dir = filepath.Join(dir, filepath.Base(name))
		if _, err := os.Stat(dir); err != nil {
			return nil, usagef("kernel %q: neither a folder nor a version that 'rivulet vm kernel' lists", name)
		}
		return vm.OpenKernel(dir)
	}
	list, err := vm.Kernels(dir)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, usagef("there is no kernel yet: 'rivulet vm kernel --from-deb FILE' takes one out of a package, for instance of linux-image-cloud-amd64")
	}
	return list[len(list)-1], nil
}
