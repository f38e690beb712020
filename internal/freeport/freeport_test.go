package freeport

import (
	"net"
	"strconv"
	"testing"
)

// TestAddr gets addresses at which one can listen, at ports that no client gets by itself.
func TestAddr(t *testing.T) {
	for range 100 {
		addr, err := Addr()
		if err != nil {
			t.Fatal(err)
		}
		_, port, err := net.SplitHostPort(addr)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := strconv.Atoi(port); err != nil || n < first || n >= first+ports || n >= 32768 {
			t.Errorf("%s: %v", addr, err)
		}
	}
}
