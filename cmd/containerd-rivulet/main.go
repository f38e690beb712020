// Containerd-rivulet is a snapshotter for containerd, as a plugin that runs beside it:
// containers start from disks that a rivulet agent mounts, of images that were not
// downloaded. It is a program of its own so that what containerd's protocol needs stays out
// of rivulet.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
