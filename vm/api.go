package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"
)

// A call is one request to a VMM's API: PUT with a JSON body, or without one.
type call struct {
	path string
	body any // nil: none
}

// apiTime bounds the wait for a VMM's API, and each answer.
const apiTime = 10 * time.Second

// put makes calls over the unix socket of a VMM's API, one after the other. A VMM that
// has just been started is waited for.
func put(ctx context.Context, socket string, calls []call) error {
	ctx, cancel := context.WithTimeout(ctx, apiTime)
	defer cancel()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dialSoon(ctx, socket)
	}}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport}
	for _, c := range calls {
		if err := putOne(ctx, &client, c); err != nil {
			return fmt.Errorf("PUT %s: %w", c.path, err)
		}
	}
	return nil
}

func putOne(ctx context.Context, client *http.Client, c call) error {
	var body io.Reader
	if c.body != nil {
		b, err := json.Marshal(c.body)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://localhost"+c.path, body)
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	answer, err := client.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
	if err != nil {
		return err
	}
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("%s: %s", answer.Status, strings.TrimSpace(string(text)))
	}
	return nil
}

// dialSoon connects to a socket that somebody is about to listen on.
func dialSoon(ctx context.Context, socket string) (net.Conn, error) {
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
		if err == nil || (!errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED)) {
			return conn, err
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
			return nil, err
		}
	}
}
