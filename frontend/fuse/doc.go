// Package fuse shows disks as files of a directory: a small FUSE server on
// /dev/fuse, one file a disk, of the disk's size for ever. A file can be written if
// its disk can, and the session was made for it (Options.Writable). A loop device
// on such a file makes a block device of it (package loopmount).
//
// It is our own since a session must outlive the process that serves it. All
// that a session knows besides its disks is a State of a few numbers: inode
// numbers are derived from the disks, no lookup counts and no file handles are
// kept. So another process that holds the descriptor calls Resume and goes on,
// and the kernel sends the requests again that were lost with the first. When
// the last holder of the descriptor ends, readers get EIO or ENOTCONN.
//
// dispatch.go is a pure function from a request's bytes to a reply's, with write.go
// for those that change a disk; tree.go the directory; session.go and worker.go
// the life of a mount; mount_linux.go and fusermount_linux.go the ways to get one.
//
// Interruption: a read that has begun is finished even if its reader got a
// signal. Answering EINTR instead would turn any signal with a handler into a
// failed read of a plain file, or SIGBUS for one that is mapped. A killed
// reader therefore ends with its read, after the device's bounded time.
//
// A trap: a process must not open a file of its own mount with os.Open, which
// hands the file to the runtime's poller: that asks the server a question
// while it holds the processor that the server may need. unix.Open is safe.
package fuse
