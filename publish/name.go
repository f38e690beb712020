package publish

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/flatten/source"
)

// imageName returns the name to publish under: the one asked for, or what the
// only source is called.
func imageName(asked string, srcs []string, img *source.Image) (string, error) {
	if asked != "" {
		return asked, nil
	}
	name := ""
	if len(srcs) == 1 {
		name = sourceName(srcs[0], img.Reference)
	}
	if catalog.CheckName(name) != nil {
		return "", fmt.Errorf("%s gives no name to publish under: choose one with --name", strings.Join(srcs, " "))
	}
	return name, nil
}

// sourceName is the tag of an image in a layout, the stem of a file's or
// folder's name, and a reference as it was written out.
func sourceName(src, reference string) string {
	scheme, rest, _ := strings.Cut(src, ":")
	switch scheme {
	case "oci":
		if i := strings.LastIndexByte(rest, ':'); i >= 0 && !strings.ContainsAny(rest[i:], "/@") {
			return rest[i+1:]
		}
		return filepath.Base(rest)
	case "dir":
		return filepath.Base(rest)
	case "zip":
		if i := strings.LastIndex(rest, "@/"); i >= 0 {
			rest = rest[:i]
		}
		return strings.TrimSuffix(filepath.Base(rest), filepath.Ext(rest))
	case "tar", "docker-archive":
		stem, _, _ := strings.Cut(filepath.Base(rest), ".")
		return stem
	}
	return reference
}
