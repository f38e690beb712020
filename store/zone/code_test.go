package zone

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
)

// gfMul multiplies in GF(2^8) modulo x^8+x^4+x^3+x^2+1, the slow way.
func gfMul(a, b byte) (p byte) {
	for ; b > 0; b >>= 1 {
		if b&1 == 1 {
			p ^= a
		}
		carry := a >> 7
		a = a<<1 ^ carry*0x1d
	}
	return p
}

func gfInverse(a byte) byte {
	for b := range 256 {
		if gfMul(a, byte(b)) == 1 {
			return byte(b)
		}
	}
	panic("zero")
}

// parity computes parity as doc/format/zone.md defines it.
func parity(s shape, data [][]byte, row int) []byte {
	p := make([]byte, len(data[0]))
	for c, d := range data {
		factor := byte(1)
		if s.n > s.k+1 {
			factor = gfInverse(byte(row ^ c))
		}
		for i := range p {
			p[i] ^= gfMul(factor, d[i])
		}
	}
	return p
}

// shapes calls f for every shape.
func shapes(t *testing.T, f func(t *testing.T, c *coder)) {
	for n := 1; n <= MaxStripes; n++ {
		for k := 1; k <= n; k++ {
			c, err := newCoder(shape{k, n})
			if err != nil {
				t.Fatal(err)
			}
			t.Run(fmt.Sprintf("%dof%d", k, n), func(t *testing.T) { f(t, c) })
		}
	}
}

// TestCode cuts objects of awkward sizes with every shape, checks parity against
// the definition, and rebuilds them from random sets of stripes.
func TestCode(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	shapes(t, func(t *testing.T, c *coder) {
		for _, size := range []int{1, c.k, c.k + 1, 1000, 4099} {
			object := make([]byte, size)
			for i := range object {
				object[i] = byte(rng.Uint32())
			}
			work := bytes.Repeat([]byte{0xa5}, c.room(size))
			copy(work, object)
			stripes, err := c.encode(work, size)
			if err != nil {
				t.Fatal(err)
			}
			for i, s := range stripes {
				if len(s) != c.payload(size) {
					t.Fatalf("stripe %d of %d bytes has %d", i, size, len(s))
				}
				if c.k > 1 && i >= c.k && !bytes.Equal(s, parity(c.shape, stripes[:c.k], i)) {
					t.Fatalf("stripe %d of %d bytes is not as defined", i, size)
				}
			}
			for range 20 {
				some := make([][]byte, c.n)
				for _, i := range rng.Perm(c.n)[:c.k] {
					some[i] = stripes[i]
				}
				buf := make([]byte, c.k*c.payload(size))
				if err := c.decode(buf, some); err != nil || !bytes.Equal(buf[:size], object) {
					t.Fatalf("%d bytes: %v, or they differ", size, err)
				}
			}
		}
	})
}

func TestShapes(t *testing.T) {
	for _, s := range []shape{{0, 1}, {-1, 5}, {2, 1}, {4, 17}, {0, 0}} {
		if _, err := newCoder(s); err == nil {
			t.Errorf("%d of %d is taken", s.k, s.n)
		}
	}
}

// vectors reads the table of doc/format/zone.md that follows a heading.
func vectors(t *testing.T, heading string) [][]string {
	t.Helper()
	text, err := os.ReadFile("../../doc/format/zone.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := bytes.Cut(text, []byte("\n### "+heading+"\n"))
	if !found {
		t.Fatalf("no heading %q", heading)
	}
	var rows [][]string
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			break
		}
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| ---") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "| \n"), " | ")
		for i := range cells {
			cells[i] = strings.Trim(cells[i], "` ")
		}
		rows = append(rows, cells)
	}
	if len(rows) < 3 {
		t.Fatalf("%d rows under %q", len(rows), heading)
	}
	return rows[1:]
}

// TestStripeVectors computes the stripes of the document's object.
func TestStripeVectors(t *testing.T) {
	o := vectorObject()
	for _, row := range vectors(t, "Stripes") {
		var k, n, i int
		if _, err := fmt.Sscanf(row[0]+" "+row[1], "%dof%d %d", &k, &n, &i); err != nil {
			t.Fatal(err)
		}
		c, err := newCoder(shape{k, n})
		if err != nil {
			t.Fatal(err)
		}
		work := make([]byte, c.room(len(o.Bytes)))
		copy(work, o.Bytes)
		stripes, err := c.encode(work, len(o.Bytes))
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(append(c.header(o.ID, i, len(o.Bytes), stripes[i]), stripes[i]...)); got != row[2] {
			t.Errorf("%s, stripe %d:\n%s, want\n%s", row[0], i, got, row[2])
		}
	}
}

// vectorObject is a chunk of one byte, 1.
func vectorObject() chunktest.Object {
	b, err := os.ReadFile("../../chunk/testdata/one.chunk")
	if err != nil {
		panic(err)
	}
	h, err := chunk.ParseHeader(b)
	if err != nil {
		panic(err)
	}
	return chunktest.Object{ID: h.ID(), Header: h, Bytes: b}
}

func TestKey(t *testing.T) {
	s := shape{10, 16}
	if got := s.key(chunk.ID{0xab}, 15); got != "rvz1:ab"+strings.Repeat("0", 62)+":10:16:15" {
		t.Error(got)
	}
}

func TestParse(t *testing.T) {
	s := shape{4, 5}
	id := chunk.ID{1, 2, 3}
	payload := []byte("0123456789")
	good := append(s.header(id, 2, 40, payload), payload...)
	if p, size, err := s.parse(id, 2, good); err != nil || size != 40 || !bytes.Equal(p, payload) {
		t.Fatalf("%q, %d, %v", p, size, err)
	}
	bad := func(what string, s shape, id chunk.ID, index int, value []byte) {
		if _, _, err := s.parse(id, index, value); !errors.Is(err, errStripe) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for bit := range 8 * len(good) {
		b := bytes.Clone(good)
		b[bit/8] ^= 1 << (bit % 8)
		bad(fmt.Sprintf("bit %d", bit), s, id, 2, b)
	}
	for n := range good {
		bad(fmt.Sprintf("%d bytes", n), s, id, 2, good[:n])
	}
	bad("a byte more", s, id, 2, append(bytes.Clone(good), 0))
	bad("another chunk's", s, chunk.ID{}, 2, good)
	bad("another index", s, id, 3, good)
	bad("another k", shape{3, 5}, id, 2, good)
	bad("another n", shape{4, 6}, id, 2, good)
	for _, size := range []int{0, chunk.MaxStoredSize + 1, 1<<32 - 1} {
		bad(fmt.Sprintf("object of %d bytes", size), s, id, 2, append(s.header(id, 2, size, payload), payload...))
	}
}

func FuzzStripe(f *testing.F) {
	id := chunk.ID{1, 2, 3}
	for _, s := range []shape{{4, 5}, {1, 1}, {8, 16}} {
		payload := []byte("0123456789")
		f.Add(uint8(s.k), uint8(s.n), uint8(0), append(s.header(id, 0, 10*s.k, payload), payload...))
	}
	f.Add(uint8(4), uint8(5), uint8(1), []byte("rvz1"))
	f.Fuzz(func(t *testing.T, k, n, index uint8, value []byte) {
		s := shape{int(k), int(n)}
		if s.check() != nil || index >= n {
			return
		}
		p, size, err := s.parse(id, int(index), value)
		if err != nil {
			if !errors.Is(err, errStripe) {
				t.Errorf("%v", err)
			}
			return
		}
		if again := append(s.header(id, int(index), size, p), p...); !bytes.Equal(again, value) {
			t.Errorf("% x is read as % x", value, again)
		}
	})
}
