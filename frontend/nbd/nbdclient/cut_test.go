package nbdclient_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"testing"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/blockdev/blockdevtest"
	"github.com/rivuletfs/rivulet/frontend/nbd"
	"github.com/rivuletfs/rivulet/frontend/nbd/nbdclient"
)

// relay passes one client's connection on to a server, and cuts it when the
// server has said limit bytes. It returns how many it did say.
func relay(t *testing.T, ln net.Listener, server net.Addr, limit int64) <-chan int64 {
	t.Helper()
	said := make(chan int64, 1)
	go func() {
		client, err := ln.Accept()
		if err != nil {
			said <- 0
			return
		}
		defer func() { _ = client.Close() }()
		behind, err := net.Dial(server.Network(), server.String())
		if err != nil {
			said <- 0
			return
		}
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			_, _ = io.Copy(behind, client)
			_ = behind.(*net.UnixConn).CloseWrite()
		}()
		n, _ := io.CopyN(client, behind, limit)
		_ = client.Close()
		_ = behind.Close()
		<-sent
		said <- n
	}()
	return said
}

// TestCutEverywhere cuts the connection at each byte that the server says. The
// client fails, or has the right bytes; it never waits.
func TestCutEverywhere(t *testing.T) {
	want := blockdevtest.Pattern(64<<10, 1)
	s := &nbd.Server{Log: slog.New(slog.DiscardHandler)}
	if err := s.AddExport(nbd.Export{Device: blockdevtest.NewMemory(want, nil)}); err != nil {
		t.Fatal(err)
	}
	back, err := nbd.Listen("unix:" + filepath.Join(t.TempDir(), "back"))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(context.Background(), back) }()
	defer func() {
		s.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	front, err := nbd.Listen("unix:" + filepath.Join(t.TempDir(), "front"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = front.Close() }()
	uri, err := nbd.URI(front.Addr(), "", false)
	if err != nil {
		t.Fatal(err)
	}
	for limit := int64(0); ; limit++ {
		said := relay(t, front, back.Addr(), limit)
		complete := useAll(t, uri, want)
		n := <-said
		if complete && n < limit {
			break
		}
		if limit > 600 { // into the data
			limit += 251
		}
	}
}

// useAll connects, reads and lists extents, and says whether all went well.
func useAll(t *testing.T, uri string, want []byte) bool {
	t.Helper()
	c, err := nbdclient.Dial(t.Context(), uri)
	if err != nil {
		return false
	}
	defer func() { _ = c.Close() }()
	at := int64(0)
	err = c.Extents(t.Context(), 0, c.Size(), func(e blockdev.Extent) bool {
		if e.Hole && bytes.Count(want[e.Offset:][:e.Length], []byte{0}) != int(e.Length) {
			t.Errorf("extent %+v is no hole", e)
		}
		at += e.Length
		return true
	})
	got := bytes.Repeat([]byte{0xA5}, len(want))
	n, readErr := c.ReadAt(got, 0)
	if !bytes.Equal(got[:n], want[:n]) || readErr == nil && n != len(want) {
		t.Errorf("read %d bytes, %v: wrong ones", n, readErr)
	}
	return err == nil && at == c.Size() && readErr == nil
}
