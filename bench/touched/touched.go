// Package touched reads what bench/sweep/touched.sh writes: the pages that
// starts of programs read.
package touched

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// A Start is the pages that one start of a program read.
type Start struct {
	Label string
	Image string
	Pages map[string][]int // path -> pages of 4 KiB of the file
}

// Read reads lines of label, image, path and page numbers, the first three
// ended by tabs.
func Read(name string) (_ []Start, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var out []Start
	in := bufio.NewScanner(f)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		part := strings.SplitN(in.Text(), "\t", 4)
		if len(part) < 4 {
			return nil, fmt.Errorf("%s: line %q: want four parts", name, in.Text())
		}
		if n := len(out); n == 0 || out[n-1].Label != part[0] || out[n-1].Image != part[1] {
			out = append(out, Start{part[0], part[1], make(map[string][]int)})
		}
		pages := out[len(out)-1].Pages
		for _, word := range strings.Fields(part[3]) {
			page, err := strconv.Atoi(word)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			pages[part[2]] = append(pages[part[2]], page)
		}
	}
	return out, in.Err()
}
