//go:build !linux

package zonetest

import "syscall"

// dieWithParent has nothing to offer here.
func dieWithParent() *syscall.SysProcAttr { return nil }
