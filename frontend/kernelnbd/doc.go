// Package kernelnbd has the kernel's own NBD client read a disk: a block device,
// /dev/nbdN, whose server is this process, at the other end of a socket pair. It speaks the generic
// netlink family "nbd" (linux/nbd-netlink.h); the kernel takes the socket as one that has
// had its handshake.
//
//	agent ── socket pair ── /dev/nbdN ── ext4
//
// A device outlives its server. What is read waits for the next one, which finds the device by
// its identity and gives it another socket (Reconnect). Two facts of the kernel's make that quick:
//
//   - It forgets what it has sent over a socket only when that times out. With a timeout of
//     the device's own, a slow read would cost a live connection. Without one, the block layer
//     asks every io_timeout all the same, and then the kernel sends again what it had sent over a
//     socket that has been replaced. So there is no timeout where a server can come back, and
//     io_timeout is short.
//   - It replaces sockets that are dead alone. So nobody may keep the server's end.
//
// A device goes when the last who has it open, or mounted, closes it (DisconnectOnClose), or by Disconnect.
//
// Needs root and Linux 5.14, and the nbd module.
package kernelnbd
