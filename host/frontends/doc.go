// Package frontends has the ways in which a host offers disks: over NBD, over
// vhost-user, as a file by FUSE, as a device, and as a mounted file system. Each makes a frontend
// of package frontend/… one that a process can take over from another
// (host.Frontend).
//
// What goes from process to process:
//
//	NBD        listening sockets ("nbd-…"), so that clients who come back wait in
//	           line and are not refused; and, in a live upgrade, connections
//	           ("conn-…")
//	VhostUser  listening sockets ("vhost-…"); what was under way is in memory that
//	           front ends keep
//	File       /dev/fuse ("fuse-…"): while anybody holds it readers wait
//	Mount      the same; loop device and ext4 on top are the kernel's and stay by
//	           themselves; Block and KataVolume likewise
//	NBDMount   nothing but, in a live upgrade, the kernel's connections ("kernel-…"): the
//	           kernel waits for another one by itself
//
// State is what a descriptor does not say: FUSE's negotiated flags, the port that
// the system chose.
package frontends
