package s3test

import "syscall"

// endWithParent makes a process end with the one that started it, however that
// ends.
func endWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} }
