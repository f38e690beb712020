package zone

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
)

func names(n int) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprintf("10.0.0.%d:6379", i))
	}
	return list
}

func randomID(rng *rand.Rand) (id chunk.ID) {
	for i := 0; i < len(id); i += 8 {
		binary.LittleEndian.PutUint64(id[i:], rng.Uint64())
	}
	return id
}

// TestPlaceDistinct: no node has two stripes of a chunk while another has none, nor
// do copies share nodes.
func TestPlaceDistinct(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, nodes := range []int{1, 2, 3, 5, 7, 16, 40} {
		for _, n := range []int{1, 2, 5, 16} {
			p := newPlacement(shape{1, n}, names(nodes), Copies)
			for range 100 {
				id := randomID(rng)
				count := make([]int, nodes)
				for c := range p.copies {
					list := p.place(id, c)
					if len(list) != n {
						t.Fatalf("%d nodes, want %d", len(list), n)
					}
					for _, j := range list {
						count[j]++
					}
				}
				most := max(1, (n+nodes-1)/nodes)
				if slices.Max(count) > most || nodes < n && slices.Min(count) < n/nodes {
					t.Fatalf("%d stripes on %d nodes: %v", n, nodes, count)
				}
			}
		}
	}
}

// TestPlaceEven: nodes get equal shares, of each stripe too.
func TestPlaceEven(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	const chunks, nodes = 40_000, 12
	p := newPlacement(shape{4, 5}, names(nodes), Copies)
	var count [5][nodes]int
	for range chunks {
		for i, j := range p.place(randomID(rng), 0) {
			count[i][j]++
		}
	}
	const want = chunks / nodes
	for i := range count {
		for j, n := range count[i] {
			if n < want*9/10 || n > want*11/10 {
				t.Errorf("node %d has %d of stripes %d, want about %d", j, n, i, want)
			}
		}
	}
}

// TestPlaceMoves: a node that comes or goes moves its own share of the stripes and
// little more, and what does not move keeps its index. The order of the
// configuration says nothing.
func TestPlaceMoves(t *testing.T) {
	for _, c := range []struct {
		n, nodes int
		most     float64 // of what must move
	}{{1, 5, 1.05}, {2, 5, 1.15}, {5, 5, 1.5}, {5, 10, 1.2}, {5, 40, 1.05}} {
		if testing.Short() && c.n > 2 {
			continue
		}
		rng := rand.New(rand.NewPCG(1, 3))
		fewer := newPlacement(shape{1, c.n}, names(c.nodes), Copies)
		list := names(c.nodes + 1)
		slices.Reverse(list)
		more := newPlacement(shape{1, c.n}, list, Copies)
		const chunks = 20_000
		moved := 0
		for range chunks {
			id := randomID(rng)
			b := more.place(id, 0)
			for i, j := range fewer.place(id, 0) {
				if j != c.nodes-b[i] {
					moved++
				}
			}
		}
		got := float64(moved) / chunks / float64(c.n)
		share := 1 / float64(c.nodes+1)
		if got > share*c.most || got < share*0.95 {
			t.Errorf("%d stripes, %d nodes and one more: %.4f move, and %.4f are its share", c.n, c.nodes, got, share)
		}
	}
}

func TestPlaceVectors(t *testing.T) {
	for _, row := range vectors(t, "Places") {
		var first uint64
		var stripes int
		if _, err := fmt.Sscanf(row[0], "%x", &first); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Sscan(row[1], &stripes); err != nil {
			t.Fatal(err)
		}
		copyNumber, err := strconv.Atoi(row[2])
		if err != nil {
			t.Fatal(err)
		}
		var id chunk.ID
		binary.BigEndian.PutUint64(id[:], first)
		p := newPlacement(shape{1, stripes}, []string{"a:6379", "b:6379", "c:6379", "d:6379", "e:6379", "f:6379"}, Copies)
		got := ""
		for _, j := range p.place(id, copyNumber) {
			got += string(rune('a' + j))
		}
		if got != row[3] {
			t.Errorf("%s, %d stripes, copy %d: %s, want %s", row[0], stripes, copyNumber, got, row[3])
		}
	}
}

func TestBound(t *testing.T) {
	for _, c := range []struct{ total, nodes, want int }{{0, 5, 8}, {20, 5, 10}, {200, 10, 41}} {
		if got := (shape{4, 5}).bound(c.total, c.nodes); got != c.want {
			t.Errorf("%d requests on %d nodes: %d, want %d", c.total, c.nodes, got, c.want)
		}
	}
}

func BenchmarkPlace(b *testing.B) {
	p := newPlacement(shape{4, 5}, names(20), Copies)
	id := randomID(rand.New(rand.NewPCG(1, 4)))
	b.ReportAllocs()
	for b.Loop() {
		p.place(id, 0)
	}
}
