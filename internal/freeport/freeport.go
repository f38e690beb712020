// Package freeport finds addresses for servers that tests start in processes of their own.
package freeport

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"syscall"
)

// Ports are looked for where the kernel takes none by itself: what is free stays so until a server listens there, also
// one that is started again.
const (
	first = 20000
	ports = 12000
	tries = 100
)

// Addr returns a HOST:PORT of the loopback interface at which nobody listens.
func Addr() (string, error) {
	for range tries {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(first+rand.IntN(ports))))
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("find a free port: %w", err)
		}
		return l.Addr().String(), l.Close()
	}
	return "", fmt.Errorf("find a free port: none in %d tries", tries)
}
