// Package start records what a disk's start reads, and reads ahead of the next one.
//
//	disk ──Touch──► Recorder ──quiet, limit, Mark, Stop──► profile.Recording
//	  │                 └── Over: the start is over ──┐
//	  ├────Touch──► Replay ◄── profile.Profile        │ ends
//	  ◄────Fetch──────┘    ◄──────────────────────────┘
//
// Both are told of a frame when it is read first (disk.Disk.OnTouch), and of nothing
// else, so that a disk which is warm pays nothing. Neither holds up a read.
package start
