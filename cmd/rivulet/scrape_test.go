package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
)

// scrape SOCKET PATH asks who listens at a unix socket by HTTP, and prints the answer.
func scrape() {
	if err := ask(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func ask() error {
	if len(os.Args) != 3 {
		return errors.New("usage: scrape SOCKET PATH")
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", os.Args[1])
	}
	c := http.Client{Transport: &http.Transport{DialContext: dial}}
	resp, err := c.Get("http://process" + os.Args[2])
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.Copy(os.Stdout, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}
