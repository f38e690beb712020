// Package overlay has writable disks over read-only ones: the private writes of one
// machine, in a folder, encrypted with a key that dies with them.
//
// An Overlay is a blockdev.Writer over any blockdev.Device. Blocks of 4096 bytes
// that were written lie in sparse files, layers, each at the place that it has on
// the disk; the others are read from the base. It is crash-consistent as a disk
// is: after a power cut it has what was flushed. A process that is killed loses
// nothing that was acknowledged. doc/format/overlay.md has the format, the order of writing, and why the
// encryption is what it is; overlaytest has a file system that loses power.
//
// # Layers
//
// Snapshot freezes the top layer and puts a new one on it. All layers are looked up
// in one map, block to layer, so that their number costs nothing; Merge makes them
// fewer. They are at most 64.
//
// # Who owns what
//
//	a read        blocks' locks ► map ► files of layers; then, without locks, the base
//	a write       blocks' locks ► map ► the rest of cut blocks ► encrypt ► gate, shared ► file ► map, pending ► recent
//	a flush       flusher ► take pending ► sync file ► recent ► journal, sync ► punch what is zeroed
//	a snapshot    flusher ► new file ► gate, alone: new top, map shared ► sync file ► index
//
// Locks are taken in this order: life, one region's block locks, gate, recent's,
// mu. The
// flusher is never waited for with a block's lock held. Whoever has the flusher only
// tries for block locks, so that a flush does not wait for a writer that waits for
// the base.
//
// life is shared by every call, and taken by Close, which therefore waits for calls
// that run. Block locks are held while a block's file is read or written, so
// that nobody sees half a sector, and while a write reads the rest of a block from the
// base, so that this is read once; other blocks go on. gate makes a snapshot one
// moment: it is held for a write to the file, never for a read of the base. mu guards map,
// pending, table of layers and counts, and is held for no I/O.
//
// pending are the changes of the map that no flush has written down: at most 32,768
// runs, then the writer flushes. recent has them in a file that is never synced,
// for the next process if this one is killed: a call that changes the map returns when
// its change is there. Nothing runs in the background: all work is done by
// the calls that cause it.
//
// # Errors
//
// A flush that failed is final, as blockdev.Writer says: from then on flushes,
// writes and snapshots fail with its error, and reads go on. A write that does not
// fit (ErrQuota, or a full file system) is an error of that write alone.
package overlay
