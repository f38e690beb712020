package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/rivuletfs/rivulet/flatten"
	"github.com/rivuletfs/rivulet/flatten/zipfile"
)

// openZip makes a layer of what is in a zip file: FILE, or FILE@DIR to have it below
// DIR, an absolute path in the image.
func openZip(ctx context.Context, src string, _ *Options) (*Image, error) {
	path, dir, err := splitDir(src)
	if err != nil {
		return nil, err
	}
	a, err := zipfile.Open(path, zipfile.Limits{})
	if err != nil {
		return nil, err
	}
	if err := a.CheckLinks(dir); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	img, err := imageOfArchive(ctx, func(ctx context.Context, w io.Writer) error { return writeZip(ctx, w, a, dir) })
	if err != nil {
		return nil, errors.Join(err, a.Close())
	}
	img.cleanup = append(img.cleanup, a.Close)
	return img, nil
}

// splitDir cuts FILE@DIR at the last "@/".
func splitDir(src string) (file, dir string, err error) {
	i := strings.LastIndex(src, "@/")
	if i < 0 {
		return src, ".", nil
	}
	file, rest := src[:i], strings.Trim(src[i+1:], "/")
	if rest == "" {
		return file, ".", nil
	}
	for part := range strings.SplitSeq(rest, "/") {
		if part == "" || part == "." || part == ".." || strings.HasPrefix(part, ".wh.") || len(part) > flatten.MaxNameBytes {
			return "", "", fmt.Errorf("folder %q: want an absolute path in the image, such as /var/task", src[i+1:])
		}
	}
	return file, rest, nil
}

// writeZip writes the canonical archive of a below dir.
func writeZip(ctx context.Context, w io.Writer, a *zipfile.Archive, dir string) error {
	out := flatten.NewArchiveWriter(w)
	for i := range a.Entries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		e := a.Entries[i]
		e.Path = zipfile.Join(dir, e.Path)
		if len(e.Path) > flatten.MaxPathBytes {
			return &flatten.EntryError{Path: e.Path, Err: fmt.Errorf("path of %d bytes: at most %d are allowed", len(e.Path), flatten.MaxPathBytes)}
		}
		var err error
		if e.Kind == flatten.File {
			err = a.Copy(i, func(data io.Reader) error { return out.Add(&e, data) })
		} else {
			err = out.Add(&e, nil)
		}
		if err != nil {
			return err
		}
	}
	return out.Close()
}
