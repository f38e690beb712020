//go:build !linux

package vhostuser

import (
	"errors"
	"net"
	"time"
)

// A session needs Linux.
type session struct{}

func newSession(*Server, net.Conn) (*session, error) { return nil, errors.ErrUnsupported }

func (*session) run()                 {}
func (*session) end()                 {}
func (*session) lastHeard() time.Time { return time.Time{} }
