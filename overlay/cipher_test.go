package overlay

import (
	"bytes"
	"crypto/aes"
	"encoding/hex"
	"math/rand/v2"
	"testing"

	"golang.org/x/crypto/xts"
)

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// TestCipherAsXTS compares with golang.org/x/crypto/xts.
func TestCipherAsXTS(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for i := range 300 {
		key, layer := randomBytes(r, KeySize), r.Uint64()
		c, err := newSectorCipher(key, layer)
		if err != nil {
			t.Fatal(err)
		}
		k, err := layerKey(key, layer)
		if err != nil {
			t.Fatal(err)
		}
		judge, err := xts.NewCipher(aes.NewCipher, k)
		if err != nil {
			t.Fatal(err)
		}
		sector := r.Int64N(1 << r.IntN(37))
		plain := randomBytes(r, sectorSize*(1+r.IntN(9)))
		got, want := make([]byte, len(plain)), make([]byte, len(plain))
		c.encrypt(got, plain, sector*sectorSize)
		for j := 0; j < len(plain); j += sectorSize {
			judge.Encrypt(want[j:j+sectorSize], plain[j:j+sectorSize], uint64(sector)+uint64(j/sectorSize))
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("case %d: sector %d: %x, want %x", i, sector, got[:16], want[:16])
		}
		inPlace := bytes.Clone(plain)
		c.encrypt(inPlace, inPlace, sector*sectorSize)
		if !bytes.Equal(inPlace, want) {
			t.Fatalf("case %d: in place", i)
		}
		if c.decrypt(got, sector*sectorSize); !bytes.Equal(got, plain) {
			t.Fatalf("case %d: decrypted", i)
		}
	}
}

// TestCipherVector is vector 10 of IEEE 1619, XTS-AES-256 over 512 bytes.
func TestCipherVector(t *testing.T) {
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	data, err := aes.NewCipher(unhex("2718281828459045235360287471352662497757247093699959574966967627"))
	if err != nil {
		t.Fatal(err)
	}
	tweak, err := aes.NewCipher(unhex("3141592653589793238462643383279502884197169399375105820974944592"))
	if err != nil {
		t.Fatal(err)
	}
	c := &sectorCipher{data, tweak}
	p := make([]byte, sectorSize)
	for i := range p {
		p[i] = byte(i)
	}
	c.encrypt(p, p, 0xff*sectorSize)
	if want := unhex("1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b"); !bytes.HasPrefix(p, want) {
		t.Errorf("%x", p[:32])
	}
}

// TestLayersShareNoKey checks that equal data at one place look different in two
// layers, and in two overlays.
func TestLayersShareNoKey(t *testing.T) {
	seen := map[string]bool{}
	for key := range byte(2) {
		for layer := range uint64(3) {
			c, err := newSectorCipher(bytes.Repeat([]byte{key}, KeySize), layer)
			if err != nil {
				t.Fatal(err)
			}
			p := make([]byte, 2*sectorSize)
			c.encrypt(p, p, 0)
			for i := 0; i < len(p); i += aes.BlockSize {
				if b := string(p[i : i+aes.BlockSize]); seen[b] {
					t.Fatalf("%x comes twice", b)
				} else {
					seen[b] = true
				}
			}
		}
	}
}

func BenchmarkEncrypt(b *testing.B) {
	c, err := newSectorCipher(make([]byte, KeySize), 1)
	if err != nil {
		b.Fatal(err)
	}
	p, q := make([]byte, blockSize), make([]byte, blockSize)
	b.SetBytes(blockSize)
	b.ReportAllocs()
	for b.Loop() {
		c.encrypt(q, p, 0)
	}
}
