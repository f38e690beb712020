package main

import (
	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
)

// A chunkSet is a set of chunks with their stored sizes in bytes.
type chunkSet map[chunk.ID]int64

// distinct returns the chunks of a disk, each once.
func distinct(m *blockmap.Map) chunkSet {
	s := make(chunkSet, m.Len())
	s.add(m)
	return s
}

func (s chunkSet) add(m *blockmap.Map) {
	for i := range m.Len() {
		c := m.Chunk(i)
		s[c.ID] = int64(c.Stored)
	}
}

func (s chunkSet) bytes() (n int64) {
	for _, size := range s {
		n += size
	}
	return n
}

// without returns the chunks of s that t lacks.
func (s chunkSet) without(t chunkSet) chunkSet {
	out := chunkSet{}
	for id, size := range s {
		if _, ok := t[id]; !ok {
			out[id] = size
		}
	}
	return out
}
