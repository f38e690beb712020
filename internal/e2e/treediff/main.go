//go:build linux

// Treediff compares two directory trees as exactly as a file system can be
// read, and prints what differs.
//
//	treediff [-except PATH]... [-max N] A B
//
// It compares names, types, modes, owners, modification times to the
// nanosecond, link counts, which names are links of one file, symlink targets,
// device numbers, extended attributes (security.capability and ACLs are among
// them), sizes and content. It ignores access and change times, inode numbers
// and the sizes of directories, which are a file system's own business. Link
// counts of directories are compared unless one file system keeps them at 1.
//
// Run it as root: a file that cannot be read is an error. The exit status is 0
// for equal trees, 1 for different ones and 2 if they could not be compared.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path"
)

var errDifferent = errors.New("trees differ")

func main() {
	switch err := run(os.Args[1:], os.Stdout); {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errDifferent):
		os.Exit(1)
	default:
		fmt.Fprintln(os.Stderr, "treediff:", err)
		os.Exit(2)
	}
}

func run(args []string, out io.Writer) error {
	fs := flag.NewFlagSet("treediff", flag.ContinueOnError)
	except := make(map[string]bool)
	fs.Func("except", "leave `PATH` and what is below it out of both trees", func(p string) error {
		except[path.Clean(p)] = true
		return nil
	})
	limit := fs.Int("max", 50, "print at most `N` differences")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() != 2 {
		return errors.New("want two directories")
	}
	a, err := readTree(fs.Arg(0), except)
	if err != nil {
		return err
	}
	b, err := readTree(fs.Arg(1), except)
	if err != nil {
		return err
	}
	diffs, err := compare(a, b)
	if err != nil {
		return err
	}
	for i, d := range diffs {
		if i == *limit {
			_, _ = fmt.Fprintf(out, "… and %d more\n", len(diffs)-i)
			break
		}
		_, _ = fmt.Fprintln(out, d)
	}
	if len(diffs) > 0 {
		return errDifferent
	}
	_, _ = fmt.Fprintf(out, "equal: %d entries, %d bytes of content\n", len(a.nodes), a.bytes)
	return nil
}
