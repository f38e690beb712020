// Package vm runs a process of an image in a virtual machine whose disk is an
// attachment: it takes kernels out of distributions' packages, makes the initrd,
// starts the VMM, and carries the process's streams and exit status.
//
// What runs where: the VMM is a child of the caller. Its guest's process 1 is
// rivulet-init, from the initrd, which does what a guest.Config says. Between host
// and guest are four channels, see package guest, each a unix socket in a folder that
// only the user can enter: this side listens before the VMM starts, and accepts each
// once.
//
// Run owns everything: two goroutines wait for the VMM and for the guest's messages,
// and one copies each stream. All end with the VMM, whose end closes the sockets; and
// when ctx ends the guest's process is told by SIGTERM, and after Grace the VMM is
// killed. The guest is not trusted: it can write as much as it likes to its output,
// which is copied as it comes, and messages are bounded by package guest.
//
// QEMU is what this is tried with. Requests for Cloud Hypervisor and Firecracker are
// made after their published API descriptions and checked against those; see
// doc/virtual-machines.md for what that means.
package vm
