//go:build !linux

package nbd

import (
	"net"
	"time"
)

// newStream takes nc over. limit bounds a write.
func newStream(nc net.Conn, limit time.Duration, _ *handOffSignal) (stream, error) {
	return &connStream{nc: nc, limit: limit}, nil
}

// A handOffSignal does nothing where no stream can be handed over.
type handOffSignal struct{}

func newHandOffSignal() (*handOffSignal, error) { return &handOffSignal{}, nil }

func (*handOffSignal) raise() {}
func (*handOffSignal) close() {}
