// Command ociserver is a registry with the referrers API, for tests: it keeps
// everything in memory, and prints the address that it listens on.
//
//	ociserver 127.0.0.1:0
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"cuelabs.dev/go/oci/ociregistry/ocimem"
	"cuelabs.dev/go/oci/ociregistry/ociserver"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: ociserver HOST:PORT")
		os.Exit(2)
	}
	if err := serve(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "ociserver:", err)
		os.Exit(1)
	}
}

func serve(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	srv := &http.Server{Handler: ociserver.New(newRanged(ocimem.New()), nil), ReadHeaderTimeout: 10 * time.Second}
	return srv.Serve(l)
}
