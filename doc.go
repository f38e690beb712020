// Package rivulet is the root of a module that starts containers and virtual
// machines from images that have not arrived yet. It holds no code: the tests
// here state the rules that every package keeps.
//
// A tour, in the way of the data:
//
//   - [github.com/rivuletfs/rivulet/flatten] reads an OCI image's layers and
//     merges them into one tree.
//   - [github.com/rivuletfs/rivulet/layout] places that tree on a disk, and
//     [github.com/rivuletfs/rivulet/ext4] writes and reads its file system.
//   - [github.com/rivuletfs/rivulet/seal] makes chunks of the disk,
//     [github.com/rivuletfs/rivulet/chunk] says what a chunk is, and
//     [github.com/rivuletfs/rivulet/blockmap] says which lies where.
//   - [github.com/rivuletfs/rivulet/publish] does all that into an
//     [github.com/rivuletfs/rivulet/origin], of which store/… are kinds.
//   - [github.com/rivuletfs/rivulet/disk] is the disk again, read chunk by
//     chunk: a [github.com/rivuletfs/rivulet/blockdev] that frontend/… offer.
package rivulet
