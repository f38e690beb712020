// Package cache is the host cache's disk: a bounded directory of chunks, one
// file each, that a crash, a full disk or rot can cost chunks but never bytes.
// doc/format/cache.md has directory and files.
//
// A chunk comes in by a [Deposit]: its bytes pass the door as they arrive, are
// written to a temporary file, and whoever has the deposit's descriptor may read
// what is checked so far. Commit appends a checksum for each page and gives the
// file its name; from then on it never changes, and goes by unlink. So a
// descriptor of it, in this process or sent to another, stays good whatever the
// cache does, and a hit costs the cache no copy. A [Handle] is the use of a
// chunk, which keeps it from being evicted.
//
// Of a chunk there may be an extract, some of its frames ([chunk.Extract]): a file like any
// other. What has more of the chunk takes its place, by a file of its own.
//
// # What is trusted
//
// Nothing that was not checked since the cache was opened. Files of chunks are
// not synced, so after a power cut they may be short, torn, empty, of old
// content, or back from the dead. The first Acquire of each reads it once: page
// checksums, and the header against the chunk's name. What fails is dropped and
// counted, and the caller gets ErrNotFound and fetches it anew. What rots later
// is found by the scrubber, or by a reader, who does not trust the cache anyway
// (Damaged). An index and a list of pins stand beside the chunks; the index is
// a hint about the order of eviction and is rebuilt by use.
//
// # Who waits for whom
//
//	          making ──────────── one maker of room at a time: Begin, housekeeping
//	            │
//	            │ pinning ─────── one writer of the pins file
//	            │    │
//	            ▼    ▼
//	            mu ────────────── all that is in memory, the policy too;
//	                              given up for every system call
//
//	Begin ── claim the ID (mu) ── make room (making: victim ► going ► unlink ► forget)
//	  │                                └ used never passes MaxBytes: room is taken
//	  ▼                                  only when what had it is gone
//	Write ── check, write ── Checked grows (atomic), others read below it
//	  │
//	Commit ── trailer, rename ── entry (mu), held by the handle
//
//	Acquire ── refs+1 (mu) ── first user opens and checks (once), others wait for it
//	Release ── refs-1 (mu) ── last user closes
//
// An entry that is going is neither found nor evicted again; who deposits the
// same chunk waits until it is gone. An entry with users or a pin is kept; only
// damage removes it then, and its users keep a descriptor of a file without a
// name. Two goroutines work in the background, housekeeping and, if asked for,
// the scrubber; Close ends them, waits for operations under way, and saves the
// index.
package cache
