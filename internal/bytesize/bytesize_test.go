package bytesize

import "testing"

// TestParse wants sizes with each unit, and mistakes refused.
func TestParse(t *testing.T) {
	for s, want := range map[string]int64{
		"0": 0, "17": 17, "1K": 1 << 10, "20M": 20 << 20, "20MiB": 20 << 20, "3G": 3 << 30, "2T": 2 << 40, "4194304T": 1 << 62,
	} {
		if n, err := Parse(s); err != nil || n != want {
			t.Errorf("%q: %d, %v; want %d", s, n, err, want)
		}
	}
	for _, s := range []string{"", "-1", "M", "1.5M", "1MM", "1KM", "4194305T", "20m", "9223372036854775808"} {
		if n, err := Parse(s); err == nil {
			t.Errorf("%q: %d, want an error", s, n)
		}
	}
}
