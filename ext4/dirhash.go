package ext4

import "math/bits"

// The hash of names in large directories: MD4 cut down to three rounds of eight
// steps, over 32 bytes of the name at a time. This is the variant that takes
// the bytes as unsigned; the superblock says so, for kernels would otherwise
// follow the signedness of their processor's char.

// Constants of the second and third round.
const (
	halfMD4Round2 = 0x5a827999
	halfMD4Round3 = 0x6ed9eba1
)

// hashEnd is a hash that stands for the end of a directory, which no name may
// have.
const hashEnd = 0xfffffffe

// hashState makes the state that names are hashed from of a superblock's seed.
// A seed of zeros stands for MD4's own.
func hashState(seed [16]byte) [4]uint32 {
	if seed == [16]byte{} {
		return [4]uint32{0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476}
	}
	var s [4]uint32
	for i := range s {
		s[i] = le.Uint32(seed[4*i:])
	}
	return s
}

// hashName gives the hash of a name, by which a directory is ordered, and the
// minor hash, which breaks ties.
func hashName(name string, state [4]uint32) (hash, minor uint32) {
	for left := name; len(left) > 0; left = left[min(32, len(left)):] {
		words := hashWords(left)
		halfMD4(&state, &words)
	}
	hash = state[1] &^ 1
	if hash == hashEnd {
		hash -= 2
	}
	return hash, state[2]
}

// hashWords makes words of up to 32 bytes, big-endian ones; what the name does
// not fill is filled with its length.
func hashWords(left string) [8]uint32 {
	pad := uint32(len(left)) & 0xff
	pad |= pad << 8
	pad |= pad << 16
	var words [8]uint32
	for w := range words {
		words[w] = pad
		for i := 4 * w; i < min(len(left), 4*w+4); i++ {
			words[w] = words[w]<<8 | uint32(left[i])
		}
	}
	return words
}

func halfMD4(state *[4]uint32, in *[8]uint32) {
	a, b, c, d := state[0], state[1], state[2], state[3]
	step := func(f, x uint32, s int) {
		a, b, c, d = d, bits.RotateLeft32(a+f+x, s), b, c
	}
	for i, s := range [8]int{3, 7, 11, 19, 3, 7, 11, 19} {
		step(d^(b&(c^d)), in[i], s)
	}
	for i, k := range [8]int{1, 3, 5, 7, 0, 2, 4, 6} {
		step(b&c+(b^c)&d, in[k]+halfMD4Round2, [4]int{3, 5, 9, 13}[i%4])
	}
	for i, k := range [8]int{3, 7, 2, 6, 1, 5, 0, 4} {
		step(b^c^d, in[k]+halfMD4Round3, [4]int{3, 9, 11, 15}[i%4])
	}
	state[0] += a
	state[1] += b
	state[2] += c
	state[3] += d
}
