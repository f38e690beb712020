// Package snapshotter is a snapshotter for containerd whose containers start
// from published disks, read as they are needed, of images whose layers were never
// downloaded. It moves no data: a rivulet agent mounts the disks, so that this
// process, or containerd, can be killed and upgraded under running containers.
//
// # Layers of an image
//
// A disk holds an image whole, flat; containerd asks for one layer after the
// other. So of an image that has a disk
//
//   - the top layer is committed with its disk: ext4, mounted read-only by an agent,
//     one mount for all containers. Whatever is on top of it has that mount as
//     the lowest overlay layer; what lies below in the chain of parents is not
//     looked at;
//   - the layers below are committed as placeholders, which have nothing but a note
//     of where their files can be had;
//
// and containerd, told that all of them exist, downloads none. An image
// that has no disk, or one that cannot be mounted within Config.Patience, is
// unpacked as by any overlay snapshotter; that is decided in Prepare, and logged.
//
// Which disk it is depends on the chain ID alone, never on which image came first.
// A placeholder may be asked for its files: by a container of an image that
// is a prefix of another, or by a layer of an image without a disk on the same base.
// Then a disk of just that chain ID is looked for, which serves; or else
// the layers are downloaded after all, from the lowest on, checked by
// digest, diff ID and chain ID, and unpacked here.
//
// # What is kept
//
// All below Config.Root:
//
//	metadata.db          containerd's own metadata store (bolt)
//	snapshots/ID/fs      a layer's files, or a container's writes
//	snapshots/ID/work    overlayfs' own
//	snapshots/ID/layer   note of a layer that came without files; see record
//	snapshots/ID/disk    note of a container whose fs is a disk of its own, mounted; see writesNote
//	snapshots/ID/writes  what it has written to that; the agent's
//	disks/HEX            where the disk with that chain ID is mounted
//
// A layer has its own files if there is fs, which appears whole, by a rename; else
// its note says which disk it is. Where a disk is mounted follows from its
// chain ID, so mounts are the same after a restart, with registry and network gone.
// Which disks are mounted the agent knows.
//
// # Concurrency
//
//	metadata          transactions of bolt; directories of snapshots are made inside of them
//	Snapshotter.disks a lock for each chain ID: held while its disk is mounted, used for a new
//	                  snapshot, or unmounted
//	Snapshotter.fills a lock for each layer: held while its note or its files are made
//
// A goroutine that has the lock of a layer may take those of layers below it, and
// that of a disk; one that has the lock of a disk takes no other but a transaction.
package snapshotter
