//go:build !linux

package vhostuser

import (
	"errors"
	"net"
)

// A session needs Linux.
type session struct{}

func newSession(*Server, net.Conn) (*session, error) { return nil, errors.ErrUnsupported }

func (*session) run() {}
func (*session) end() {}
