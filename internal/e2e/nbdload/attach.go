package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/host/control"
)

// detachTime bounds how long the end of an attachment may take.
const detachTime = time.Minute

// splitAgent reads agent:///IMAGE?socket=PATH.
func splitAgent(uri string) (image, socket string, err error) {
	u, err := url.Parse(uri)
	if err != nil {
		return "", "", err
	}
	image, socket = strings.TrimPrefix(u.Path, "/"), u.Query().Get("socket")
	if image == "" || socket == "" {
		return "", "", fmt.Errorf("%s: want agent:///IMAGE?socket=PATH", uri)
	}
	return image, socket, nil
}

// attached calls use with the URI of a disk of its own, that the agent attaches for
// it, and detaches it.
func attached(ctx context.Context, uri string, n int, use func(uri string) error) error {
	image, socket, err := splitAgent(uri)
	if err != nil {
		return err
	}
	c, err := control.Dial(ctx, socket)
	if err != nil {
		return err
	}
	where := "unix:" + filepath.Join(filepath.Dir(socket), fmt.Sprintf("start%d.sock", n))
	infos, err := c.Attach(ctx, host.Spec{Image: image, Store: os.Getenv("RIVULET_STORE"), Frontend: "nbd", Where: where, Name: image})
	if err != nil {
		return fmt.Errorf("%s: attach: %w", uri, err)
	}
	err = use(infos[0].Address)
	detach, cancel := context.WithTimeout(context.WithoutCancel(ctx), detachTime)
	defer cancel()
	return errors.Join(err, c.Detach(detach, infos[0].ID, true, detachTime))
}
