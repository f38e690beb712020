// Package bytesize reads sizes as command lines have them.
package bytesize

import (
	"fmt"
	"strings"
)

// Parse reads a size in bytes, with an optional unit (K, M, G, T; powers of 1024).
func Parse(s string) (int64, error) {
	num, shift := s, 0
	for i, unit := range []string{"K", "M", "G", "T"} {
		for _, suffix := range []string{unit + "iB", unit} {
			if n, ok := strings.CutSuffix(s, suffix); ok && shift == 0 {
				num, shift = n, 10*(i+1)
			}
		}
	}
	var n int64
	if _, err := fmt.Sscanf(num+"\n", "%d\n", &n); err != nil || n < 0 || n > (1<<62)>>shift {
		return 0, fmt.Errorf("size %q: want a number of bytes, or one with K, M, G or T", s)
	}
	return n << shift, nil
}
