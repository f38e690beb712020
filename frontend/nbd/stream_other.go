//go:build !linux

package nbd

import (
	"net"
	"time"
)

// newStream takes nc over. limit bounds a write.
func newStream(nc net.Conn, limit time.Duration) (stream, error) {
	return &connStream{nc: nc, limit: limit}, nil
}
