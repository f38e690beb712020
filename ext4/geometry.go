package ext4

import (
	"errors"
	"fmt"
	"strings"
)

// Bounds of a Config.
const (
	MinBlocks        = 4096                          // 16 MiB
	MaxBlocks        = 1 << 34                       // 64 TiB
	MinJournalBlocks = 1024                          // fewer are refused by the kernel
	MaxJournalBlocks = extentsInInode * MaxExtentLen // 512 MiB
)

// alignBlocks is what the areas at the end of the device are aligned to:
// 512 KiB.
const alignBlocks = 128

// ErrConfig is wrapped by NewWriter's errors that tell of a Config nothing can
// be made of.
var ErrConfig = errors.New("invalid configuration")

// Config fixes everything of a file system that is not a file.
type Config struct {
	// Blocks is the size of the device in blocks of 4 KiB, MinBlocks to
	// MaxBlocks.
	Blocks uint64
	// InodesPerGroup is the number of inodes for each 128 MiB: a multiple of
	// 128, at most 32768.
	InodesPerGroup uint32
	UUID           [16]byte // not all zero
	Label          string   // at most 16 bytes
	// HashSeed is mixed into the hashes of names in large directories.
	HashSeed [16]byte
	// ChecksumSeed starts every checksum but the superblock's, in place of a
	// value made of the UUID.
	ChecksumSeed uint32
	// Created is the time of the superblock and of the inodes that are no
	// file of the caller's; not before 1970.
	Created Time
	// Low is the end of the area [0,Low) of superblock, group descriptors and,
	// as far as they fit, bitmaps. It has to hold the first two: one block, and
	// one for each 64 groups (8 GiB) or part of them.
	Low uint64
	// Meta is the first block of the area from which directories, nodes of
	// extent trees, attribute blocks and long symbolic links are taken,
	// upwards in the order of the calls.
	Meta uint64
	// JournalBlocks is the size of the journal in blocks, MinJournalBlocks to
	// MaxJournalBlocks.
	JournalBlocks uint32
}

// geometry is where the fixed parts of a file system lie, all in blocks.
//
//	0       superblock
//	1       group descriptors
//	bitmaps stored bitmaps, nodes of the boot-loader inode, other bitmaps
//	low     the caller's, up to
//	high    what of the above did not fit below low
//	journal
//	itable  inode tables of all groups, one behind the other
type geometry struct {
	blocks         uint64
	groups         uint64
	inodesPerGroup uint32
	journalBlocks  uint32
	bitmaps        uint64
	low            uint64
	high           uint64
	journal        uint64
	itable         uint64
}

func newGeometry(c *Config) (geometry, error) {
	if err := c.check(); err != nil {
		return geometry{}, err
	}
	g := geometry{
		blocks:         c.Blocks,
		groups:         (c.Blocks + BlocksPerGroup - 1) / BlocksPerGroup,
		inodesPerGroup: c.InodesPerGroup,
		journalBlocks:  c.JournalBlocks,
		low:            c.Low,
	}
	if n := g.groups * uint64(c.InodesPerGroup); n >= 1<<32 {
		return geometry{}, fmt.Errorf("%w: %d inodes are more than 32 bits count", ErrConfig, n)
	}
	g.bitmaps = 1 + (g.groups*descSize+BlockSize-1)/BlockSize
	if c.Low < g.bitmaps {
		return geometry{}, fmt.Errorf("%w: %d low blocks cannot hold the %d of superblock and group descriptors",
			ErrConfig, c.Low, g.bitmaps)
	}
	tables := g.groups * uint64(g.tableBlocks())
	room := tables + uint64(c.JournalBlocks) + g.overflow(0) + 3*alignBlocks
	if c.Low > c.Meta || c.Meta > c.Blocks || room > c.Blocks-c.Meta {
		return geometry{}, fmt.Errorf("%w: low area to %d, metadata from %d and %d blocks for tables and journal do not fit in %d blocks",
			ErrConfig, c.Low, c.Meta, room, c.Blocks)
	}
	g.itable = alignDown(g.blocks - tables)
	g.journal = alignDown(g.itable - uint64(c.JournalBlocks))
	g.high = g.overflowStart(0)
	return g, nil
}

func (c *Config) check() error {
	switch {
	case c.Blocks < MinBlocks || c.Blocks > MaxBlocks:
		return fmt.Errorf("%w: %d blocks, want %d to %d", ErrConfig, c.Blocks, uint64(MinBlocks), uint64(MaxBlocks))
	case c.InodesPerGroup == 0 || c.InodesPerGroup%128 != 0 || c.InodesPerGroup > 8*BlockSize:
		return fmt.Errorf("%w: %d inodes per group, want a multiple of 128 up to %d", ErrConfig, c.InodesPerGroup, 8*BlockSize)
	case c.JournalBlocks < MinJournalBlocks || c.JournalBlocks > MaxJournalBlocks:
		return fmt.Errorf("%w: journal of %d blocks, want %d to %d", ErrConfig, c.JournalBlocks, MinJournalBlocks, MaxJournalBlocks)
	case c.UUID == [16]byte{}:
		return fmt.Errorf("%w: no UUID", ErrConfig)
	case len(c.Label) > 16 || strings.IndexByte(c.Label, 0) >= 0:
		return fmt.Errorf("%w: label %q is over 16 bytes or has a NUL", ErrConfig, c.Label)
	case c.Created.Sec < 0:
		return fmt.Errorf("%w: created before 1970: %w", ErrConfig, ErrTime)
	}
	if err := checkTime(c.Created); err != nil {
		return fmt.Errorf("%w: created: %w", ErrConfig, err)
	}
	return nil
}

// tableBlocks is the size of one group's inode table.
func (g *geometry) tableBlocks() uint32 {
	return g.inodesPerGroup / (BlockSize / InodeSize)
}

func (g *geometry) inodes() uint32 {
	return uint32(g.groups) * g.inodesPerGroup
}

// overflow is how many of the bitmaps (two for each group) and the given
// number of tree nodes do not fit into the low area.
func (g *geometry) overflow(nodes uint64) uint64 {
	all, room := 2*g.groups+nodes, g.low-g.bitmaps
	return all - min(all, room)
}

// overflowStart is where the overflow begins, which lies right below the
// journal.
func (g *geometry) overflowStart(nodes uint64) uint64 {
	return alignDown(g.journal - min(g.journal, g.overflow(nodes)))
}

// overhead counts the blocks that no file can ever have, as mke2fs does.
func (g *geometry) overhead() uint64 {
	return g.bitmaps + g.groups*uint64(2+g.tableBlocks()) + uint64(g.journalBlocks)
}

func alignDown(block uint64) uint64 { return block &^ (alignBlocks - 1) }
