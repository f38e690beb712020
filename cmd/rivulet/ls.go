package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"text/tabwriter"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/ext4"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
)

// A listedImage is a line of ls.
type listedImage struct {
	Name         string `json:"name"`
	Digest       string `json:"digest"`
	BlockMap     string `json:"block_map"`
	SourceDigest string `json:"source_digest"`
	DiskSize     int64  `json:"disk_size"`
	Chunks       int    `json:"chunks"`
	StoredBytes  int64  `json:"stored_bytes"`
}

func (a *app) lsCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ls [IMAGE [PATH]]",
		Short: "List the images of the store, or a folder of an image",
		Example: `  rivulet ls
  rivulet ls nginx /etc/nginx`,
		Args:              cobra.MaximumNArgs(2),
		ValidArgsFunction: a.completeImages(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			view, err := a.openView(cmd.Context())
			if err != nil {
				return err
			}
			if len(args) == 0 {
				return a.listImages(cmd, view, asJSON)
			}
			return a.listFolder(cmd, view, append(args, "/")[:2], asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

func (a *app) listImages(cmd *cobra.Command, v *generation.View, asJSON bool) error {
	images := []listedImage{}
	var broken []error // of images that cannot be shown; they hide no others
	err := v.Names(cmd.Context(), func(name string, d origin.Digest) error {
		i, err := v.Open(cmd.Context(), d.String())
		if err != nil {
			broken = append(broken, fmt.Errorf("image %q: %w", name, err))
			return cmd.Context().Err()
		}
		m := i.Map
		info := m.Info()
		images = append(images, listedImage{
			Name: name, Digest: m.DiskDigest().String(), BlockMap: d.String(), SourceDigest: orNone(info.Source),
			DiskSize: info.Size, Chunks: m.Len(), StoredBytes: distinct(m).bytes(),
		})
		return nil
	})
	if err != nil {
		return err
	}
	if asJSON {
		return errors.Join(append(broken, a.printJSON(images))...)
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tDISK\tCHUNKS\tSTORED\tDIGEST")
	for _, i := range images {
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%.19s\n", i.Name, size(i.DiskSize), i.Chunks, size(i.StoredBytes), i.Digest)
	}
	return errors.Join(append(broken, w.Flush())...)
}

// A listedFile is a line of ls IMAGE PATH.
type listedFile struct {
	Name    string `json:"name"`
	Mode    string `json:"mode"`
	UID     uint32 `json:"uid"`
	GID     uint32 `json:"gid"`
	Size    int64  `json:"size"`
	ModTime string `json:"mod_time"`
	Target  string `json:"target,omitempty"`
}

func (a *app) listFolder(cmd *cobra.Command, v *generation.View, args []string, asJSON bool) error {
	fsys, done, err := a.openFiles(cmd.Context(), v, args[0])
	if err != nil {
		return err
	}
	defer done()
	files, err := readFolder(fsys, inside(args[1]))
	if err != nil {
		return fmt.Errorf("image %q: %w", args[0], err)
	}
	if asJSON {
		return a.printJSON(files)
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 1, ' ', tabwriter.AlignRight)
	for _, f := range files {
		name := printable(f.Name)
		if f.Target != "" {
			name += " -> " + printable(f.Target)
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t %s\t %s\n", f.Mode, f.UID, f.GID, f.Size, f.ModTime, name)
	}
	return w.Flush()
}

// readFolder lists a folder, or the one file that name means, which may be a
// symbolic link that leads nowhere.
func readFolder(fsys *ext4.FS, name string) ([]listedFile, error) {
	info, err := fsys.Stat(name)
	if err != nil {
		if info, _ = fsys.Lstat(name); info == nil {
			return nil, err
		}
	}
	if !info.IsDir() {
		f, err := describe(fsys, name, path.Base(name))
		return []listedFile{f}, err
	}
	entries, err := fsys.ReadDir(name)
	if err != nil {
		return nil, err
	}
	files := make([]listedFile, 0, len(entries))
	for _, e := range entries {
		f, err := describe(fsys, path.Join(name, e.Name()), e.Name())
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

func describe(fsys *ext4.FS, name, shown string) (listedFile, error) {
	info, err := fsys.Lstat(name)
	if err != nil {
		return listedFile{}, err
	}
	f := listedFile{Name: shown, Mode: info.Mode().String(), Size: info.Size(), ModTime: info.ModTime().UTC().Format("2006-01-02 15:04:05")}
	if st, ok := info.Sys().(*ext4.Stat); ok {
		f.UID, f.GID = st.UID, st.GID
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		f.Target, err = fsys.ReadLink(name)
	}
	return f, err
}

// printable returns a name from an image as it can be shown: quoted if it holds
// anything that a terminal would act on, or that is no text.
func printable(name string) string {
	for _, r := range name {
		if r == utf8.RuneError || !strconv.IsPrint(r) {
			return strconv.Quote(name)
		}
	}
	return name
}

// inside turns a path as people write it into one of io/fs.
func inside(p string) string {
	p = path.Clean("/" + p)[1:]
	if p == "" {
		return "."
	}
	return p
}
