package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/flatten"
	"github.com/rivuletfs/rivulet/layout"
)

// makeFiles returns files in both forms, some of them equal and some with zeros.
func makeFiles(t *testing.T, n int) ([]file, *flatten.Layer) {
	t.Helper()
	l := &flatten.Layer{}
	var files []file
	var data []byte
	for i := range n {
		rng := rand.New(rand.NewPCG(uint64(i%90), 3))
		body := make([]byte, 1+rng.IntN(40<<10))
		if i%30 == 7 {
			body = make([]byte, 1<<20+rng.IntN(1<<20))
		}
		for k := range body {
			if k>>13%3 != 1 { // runs of zeros, at ends too
				body[k] = byte(rng.Uint32())
			}
		}
		f := file{path: fmt.Sprintf("dir%d/file%d", i/17, i), size: int64(len(body)), data: int64(len(data))}
		if err := f.digest(bytes.NewReader(body)); err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
		l.Entries = append(l.Entries, flatten.Entry{Path: f.path, Data: f.data, Attr: flatten.Attr{Kind: flatten.File, Size: f.size}})
		data = append(data, body...)
	}
	l.Data = bytes.NewReader(data)
	return files, l
}

// Chunks made of block digests are equal where the real ones are, and as long.
func TestCutAgreesWithLayout(t *testing.T) {
	if testing.Short() {
		t.Skip("long, and of one goroutine")
	}
	files, l := makeFiles(t, 400)
	s, err := cut(files, point{Params: layout.Default})
	if err != nil {
		t.Fatal(err)
	}
	seg, err := layout.PlanSegment(l.Entries, layout.Default)
	if err != nil {
		t.Fatal(err)
	}
	if int(seg.Chunks) != len(s.ids) {
		t.Fatalf("%d chunks, layout makes %d", len(s.ids), seg.Chunks)
	}
	buf := make([]byte, layout.Default.Chunk)
	known := make(map[chunkID][32]byte)
	back := make(map[[32]byte]chunkID)
	for i, id := range s.ids {
		if err := seg.ReadChunk(l, uint32(i), buf); err != nil {
			t.Fatal(err)
		}
		plain := chunk.Trim(buf)
		if len(plain) != s.sizes[i] {
			t.Errorf("chunk %d: %d bytes, really %d", i, s.sizes[i], len(plain))
		}
		if len(plain) == 0 {
			continue
		}
		sum := sha256.Sum256(plain)
		if have, ok := known[id]; ok && have != sum {
			t.Errorf("chunk %d: taken for one that is another", i)
		}
		if have, ok := back[sum]; ok && have != id {
			t.Errorf("chunk %d: not taken for its equal", i)
		}
		known[id], back[sum] = sum, id
	}
}

// A rule's word is what PlanSegment does: a bin ends after the first file, from
// the smallest bin on, that the rule names, else after the last that it has room
// for. The last bin has all that is left.
func TestRulesReachTheLayout(t *testing.T) {
	if testing.Short() {
		t.Skip("long, and of one goroutine")
	}
	files, _ := makeFiles(t, 400)
	p := layout.Default
	for _, r := range rules[1:] {
		seg, err := plan(files, point{Params: p, rule: r})
		if err != nil {
			t.Fatal(err)
		}
		start := make(map[int]int) // file -> its byte of the segment
		for _, piece := range seg.Pieces {
			start[int(piece.Entry)] = int(piece.Start) * 4096
		}
		var small []int
		for i := range files {
			if int(files[i].size) < p.Large {
				small = append(small, i)
			}
		}
		sum := func(list []int) (n int) {
			for _, i := range list {
				n += files[i].bytes()
			}
			return n
		}
		for bins := 0; len(small) > 0; bins++ {
			n, named := 1, 0 // files with room in the bin; those up to the first named one
			for ; n <= len(small) && sum(small[:n]) <= p.Chunk; n++ {
				i := small[n-1]
				var next *file
				if i+1 < len(files) {
					next = &files[i+1]
				}
				if named == 0 && sum(small[:n]) >= p.MinBin && r.ends(&files[i], next) {
					named = n
				}
			}
			if n--; n < len(small) && named > 0 {
				n = named
			}
			for k, i := range small[:n] {
				if want := start[small[0]]/p.Chunk*p.Chunk + sum(small[:k]); start[i] != want || start[small[0]]%p.Chunk != 0 {
					t.Fatalf("rule %q, bin %d: file %d lies at %d, want %d", r.name, bins, i, start[i], want)
				}
			}
			small = small[n:]
		}
	}
}

func TestFalling(t *testing.T) {
	for i := range falling[1:] {
		if hash(falling[i]) <= hash(falling[i+1]) {
			t.Fatalf("hash of name %d is not above that of the next", i)
		}
	}
}

func TestWithPackage(t *testing.T) {
	base := []file{made("etc/ld.so.cache", 5000, 0), made("usr/bin/a", 10, 0), made("var/lib/dpkg/status", 9000, 0)}
	got := withPackage(base)
	if want := len(base) + len(aPackage()); len(got) != want {
		t.Fatalf("%d files, want %d", len(got), want)
	}
	same := 0
	for _, f := range got {
		for _, b := range base {
			if f.path == b.path && f.id == b.id {
				same++
			}
		}
	}
	if same != 1 {
		t.Errorf("%d files are as before, want the one that no installation changes", same)
	}
}

func TestWalkKey(t *testing.T) {
	for _, pair := range [][2]string{{"a/b", "a-b"}, {"a", "a/b"}, {"a/z", "b"}} {
		if walkKey(pair[0]) >= walkKey(pair[1]) {
			t.Errorf("%q comes after %q", pair[0], pair[1])
		}
	}
}
