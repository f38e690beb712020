// Package host attaches images on this machine: it opens them, shares one disk
// among all that show the same one, offers disks through frontends, detaches
// them, and takes them over from the process before this one, however that ended.
// An agent is a Host with a control socket; a command that serves one disk by
// itself is a Host without a state folder.
//
//	Spec ─► image (found, signed, unlocked) ─► disk, one an image ─► Offer ─► Frontend
//	          └── marked as in use daily        memory, opener: one a host
//
// # What outlives the process
//
// An attachment has a file in the state folder, written before its frontend is
// asked, with its Spec, pinned to the digest of a block map, and what the frontend
// needs to go on (State). There is no key in it and nothing secret; whoever reads
// gives paths of key files. Descriptors are kept by a keep.Keeper.
//
// Beside it lies the block map of its image, one file an image; the file itself has
// the wrapped key and the signature by which that was opened (Kept).
//
// Recover offers every attachment of the folder at once, before its disk is open:
// size and digest are in the file. Reads wait then, for a bounded time, until the
// disk is there. It is opened from what is kept, without its origin, which is found
// meanwhile (late); if that does not do, from the origin. What fails is tried again,
// with growing pauses, and holds up nothing else.
//
// # Concurrency
//
//	Host.gate   read lock: Attach, Detach; write lock: Recover, Release, Resume, Close
//	Host.mu     the tables of attachments, disks and stores; held for table work only
//	attachment  what changes: Host.mu; ended by whoever is first (Detach, the frontend, Close)
//	device      disk: set once, by Attach or by the goroutine that opens it
//	keptMaps.mu the table of block maps in the folder; keptMap.mu while one is written
//
// Goroutines are one an attachment, which offers it if that is outstanding and waits
// for the frontend's end; a second one while its disk is to be opened; and one an
// image, which finds its origin, if that is outstanding, and marks it. Release ends the former and waits; the latter ends with its
// disk. A disk that was attached has two more until its start is over (starting), which it ends and waits for, too;
// one more while it is filled; what the start has taught is kept by one of the host's, which Close waits for, as long as closeTime.
package host
