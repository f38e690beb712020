//go:build !linux

package fdpass

import (
	"errors"
	"net"
)

// CheckPeer needs Linux.
func CheckPeer(*net.UnixConn) error { return errors.ErrUnsupported }
