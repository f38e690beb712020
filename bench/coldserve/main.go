// Coldserve serves a published disk over NBD from a directory store that answers
// late, with nothing in memory at the start.
//
//	coldserve [-delay 5ms] STORE-DIR NAME SOCKET
//
// It prints "ready NBD-URI" and "stats URL"; the URL answers with the requests
// that the store got since then, in the form of package meter.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/rivuletfs/rivulet/bench/meter"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/frontend/nbd"
	"github.com/rivuletfs/rivulet/store/dir"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "coldserve:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	delay := flag.Duration("delay", 5*time.Millisecond, "wait so long in each request to the store")
	flag.Parse()
	if flag.NArg() != 3 {
		return errors.New("want a store's directory, an image's name and a socket's path")
	}
	storeDir, name, socket := flag.Arg(0), flag.Arg(1), flag.Arg(2)
	place, err := dir.Open(storeDir, false)
	if err != nil {
		return err
	}
	store := place.Generation(1)
	m, err := catalog.Open(ctx, store, name)
	if err != nil {
		return err
	}
	source := &slowSource{store, &meter.Meter{Delay: *delay}}
	d, err := disk.Open(m, chunk.NewDoor(source), disk.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }() // read-only: nothing can be lost
	stats, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() { _ = http.Serve(stats, source.meter) }() // ends with the process
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	var server nbd.Server
	if err := server.AddExport(nbd.Export{Name: name, Device: d}); err != nil {
		return err
	}
	fmt.Printf("stats http://%s\nready nbd+unix:///%s?socket=%s\n", stats.Addr(), name, socket)
	return server.Serve(ctx, listener)
}

// A slowSource is a store behind a meter.
type slowSource struct {
	store chunk.Source
	meter *meter.Meter
}

func (s *slowSource) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	defer s.meter.End()
	if err := s.meter.Begin(ctx); err != nil {
		return 0, err
	}
	n, err := s.store.Fetch(ctx, id, dst, off)
	s.meter.Add(n)
	return n, err
}
