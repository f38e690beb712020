// Package flatten turns the layers of an OCI image into one ordered tree.
//
// [ReadLayer] reads one uncompressed layer archive, once and in order. What it
// returns is what an extractor would leave that applied the archive's entries
// one after the other to an empty root. [Merge] then applies layers to one
// another, lowest first, and gives the tree that an overlay mount of them
// would show. Package flatten/source finds images and their layers.
//
// The rules are those of the OCI image specification ("Image Layer Filesystem
// Changeset"); where it leaves a case open, they are the following.
//
// Within one layer:
//
//   - Names are cleaned first: "./", "//" and a leading "/" mean nothing. A name
//     that is empty, holds a NUL byte, leaves the root through "..", or has a
//     part of more than 255 bytes is refused.
//   - The last entry of a path wins. A directory named again takes the later
//     attributes and keeps what is in it; every other replacement removes
//     the earlier entry and what the layer put below that name.
//   - A path below one that the layer itself made a file, a device or the like
//     is refused.
//   - Whiteouts hide what lower layers have, never what their own layer has,
//     wherever they stand in the archive. A whiteout implies the directory it is
//     in, as a file does. Other names that begin with ".wh..wh." are the
//     bookkeeping of old builders and ignored.
//   - A hard link names what its target is when the link comes, whatever
//     replaces that path later. A target that the layer has not named so far,
//     by just that path, is for Merge to find; that the same layer names it
//     afterwards is refused. So is a link to a directory, to itself, or to
//     something below itself.
//
// Between layers:
//
//   - Hard links look at the lower layers first, then whiteouts and opaque
//     directories take effect, then come the entries in walk order, those
//     below a symbolic link of the same layer after the others, then the hard
//     links. One that the lower layers had nothing for follows its target now:
//     that can lead through a symbolic link to what the layer has under another
//     path, also to another hard link.
//   - A parent that is a symbolic link is followed within the root. Where it
//     leads nowhere, the missing directories are made.
//   - A directory replaces anything but a directory; a directory that the layer
//     only implies also leaves a symbolic link as it is.
//   - Directories that nobody names belong to root, with mode 0755 and time 0.
//
// Times outside of what ext4 can keep are moved to the nearest that it can.
// Extended attributes that no Linux file system would store are left out: those
// outside of the namespaces user, trusted, security and the two POSIX ACLs, user
// attributes of anything but files and directories, ACLs where none can be.
package flatten
