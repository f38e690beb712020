package chunk

import "encoding/binary"

// Trim returns p without its trailing zeros. It shares p's memory.
func Trim(p []byte) []byte {
	n := len(p)
	for n >= 32 {
		q := p[n-32 : n]
		if binary.LittleEndian.Uint64(q)|binary.LittleEndian.Uint64(q[8:])|
			binary.LittleEndian.Uint64(q[16:])|binary.LittleEndian.Uint64(q[24:]) != 0 {
			break
		}
		n -= 32
	}
	for n > 0 && p[n-1] == 0 {
		n--
	}
	return p[:n]
}

// IsZero reports whether p has no other bytes than zeros.
func IsZero(p []byte) bool { return len(Trim(p)) == 0 }
