package publish

import (
	"fmt"

	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/flatten"
)

// imageName returns the name to publish under: the one asked for, or the
// source's own.
func imageName(asked string, img *flatten.Image) (string, error) {
	if asked != "" {
		return asked, nil
	}
	if img.Reference == "" || catalog.CheckName(img.Reference) != nil {
		return "", fmt.Errorf("source %q gives no usable name: choose one with --name", img.Reference)
	}
	return img.Reference, nil
}
