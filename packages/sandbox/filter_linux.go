//go:build amd64 || arm64

package sandbox

import (
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"
)

// refused are the system calls that fail in a sandbox: those by which a program could keep
// memory that no process is charged with, look into others, or reach parts of the
// kernel that building and compiling need not.
var refused = append([]uint32{
	unix.SYS_MEMFD_CREATE, unix.SYS_MEMFD_SECRET, unix.SYS_SHMGET, unix.SYS_MSGGET, unix.SYS_SEMGET, // memory without an owner
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PIDFD_GETFD, unix.SYS_KCMP,
	unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY,
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_FANOTIFY_INIT,
	unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT,
	unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_MOUNT_SETATTR,
	unix.SYS_SETNS, unix.SYS_UNSHARE,
	unix.SYS_KEXEC_LOAD, unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_REBOOT,
	unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_ACCT, unix.SYS_QUOTACTL, unix.SYS_SYSLOG,
	unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_NAME_TO_HANDLE_AT,
	unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_ADJTIMEX, unix.SYS_CLOCK_ADJTIME,
	unix.SYS_PERSONALITY, unix.SYS_MOVE_PAGES, unix.SYS_MBIND, unix.SYS_SET_MEMPOLICY,
}, refusedHere...)

// The code of a filter is that of classic BPF, over struct seccomp_data.
const (
	loadWord  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	jumpEqual = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	jumpAbove = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	giveBack  = unix.BPF_RET | unix.BPF_K

	numberAt, archAt = 0, 4 // offsets in seccomp_data

	allow = 0x7fff0000
	fail  = 0x00050000 | uint32(unix.EPERM)
	kill  = 0x80000000
)

// filter returns the program that refuses those calls, and all of other architectures.
func filter() []byte {
	var b []byte
	op := func(code uint16, yes, no uint8, k uint32) {
		b = binary.NativeEndian.AppendUint16(b, code)
		b = append(b, yes, no)
		b = binary.NativeEndian.AppendUint32(b, k)
	}
	op(loadWord, 0, 0, archAt)
	op(jumpEqual, 1, 0, audited)
	op(giveBack, 0, 0, kill)
	op(loadWord, 0, 0, numberAt)
	op(jumpAbove, 0, 1, firstForeign)
	op(giveBack, 0, 0, fail)
	list := slices.Clone(refused)
	slices.Sort(list)
	for _, call := range slices.Compact(list) {
		op(jumpEqual, 0, 1, call)
		op(giveBack, 0, 0, fail)
	}
	op(giveBack, 0, 0, allow)
	return b
}
