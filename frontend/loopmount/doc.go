// Package loopmount mounts the ext4 file system in a file, by system calls
// alone: a loop device reads the file past the page cache (direct I/O, so that
// nothing is cached twice), and ext4 is mounted on it: read-only, without replaying a
// journal, or to be written.
//
// A loop device is attached in self-clearing mode: it detaches when its last
// user goes, the mount included. So a process that dies half-way leaves no
// device behind, and unmounting suffices to undo all, unless it was told to stay. The order to take things
// down is ext4, loop device, then whatever serves the file; Unmount waits for
// the device to let go of the file, so that its own mount is free after it.
//
// The kernel opens nothing itself: it reads with the descriptor that Attach
// opened, and so with the rights of the caller.
package loopmount
