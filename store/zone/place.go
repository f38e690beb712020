package zone

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/rivuletfs/rivulet/chunk"
)

// A placement says which node keeps which stripe: rendezvous hashing of pairs of
// stripe and node, the best pair first, each node once. So a node that comes or
// goes moves little more than its own share, and stripes keep their index.
// doc/format/zone.md defines it to the bit: hosts that agree on the nodes' names
// agree on the places.
type placement struct {
	shape
	copies int        // disjoint sets of nodes that a chunk may lie on
	pairs  [][]uint64 // by stripe, then node
}

// newPlacement returns the places on nodes with those names, of at most so many
// copies.
func newPlacement(s shape, names []string, copies int) *placement {
	p := &placement{shape: s, pairs: make([][]uint64, s.n), copies: min(copies, max(1, len(names)/s.n))}
	for i := range p.pairs {
		p.pairs[i] = make([]uint64, len(names))
		for j, name := range names {
			sum := sha256.Sum256([]byte(name))
			p.pairs[i][j] = mix(binary.LittleEndian.Uint64(sum[:]) + uint64(i+1)*0x9e3779b97f4a7c15)
		}
	}
	return p
}

// mix is the last step of splitmix64.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// place returns the nodes of copy number c, in the order of their stripes. Where
// there are fewer nodes than stripes, every node gets one before any gets two.
func (p *placement) place(id chunk.ID, c int) []int {
	taken := make([]bool, len(p.pairs[0]))
	used := 0
	var nodes []int
	for range c + 1 {
		nodes = p.assign(id, taken, &used)
	}
	return nodes
}

// assign gives each stripe a node that is not taken, and takes it.
func (p *placement) assign(id chunk.ID, taken []bool, used *int) []int {
	x := binary.LittleEndian.Uint64(id[:])
	nodes := make([]int, p.n)
	for i := range nodes {
		nodes[i] = -1
	}
	for range nodes {
		if *used == len(taken) {
			clear(taken)
			*used = 0
		}
		stripe, node, best := -1, -1, uint64(0)
		for i, row := range p.pairs {
			if nodes[i] >= 0 {
				continue
			}
			for j, pair := range row {
				if taken[j] {
					continue
				}
				if score := mix(x ^ pair); stripe < 0 || score > best {
					stripe, node, best = i, j, score
				}
			}
		}
		nodes[stripe], taken[node] = node, true
		*used++
	}
	return nodes
}

// Bounded load: a node holds at most loadFactor times its share of the requests
// in flight, if it holds leastLoad or more.
const (
	loadFactor = 2
	leastLoad  = 8
)

// bound returns how many requests a node may hold before reads turn to another
// copy, if all n nodes together hold total.
func (s shape) bound(total, n int) int {
	return max(leastLoad, loadFactor*(total+s.n)/n)
}
