// Hello measures how long containers take to start from images that a host does not
// have, with containerd and each of its ways to get at an image, over links of a chosen
// delay and bandwidth: HelloBench, as the Slacker paper (FAST 2016) has it, with pull,
// create and ready apart, cold caches in each run, and bytes and requests counted.
//
//	hello prepare -dir DIR -layout LAYOUT     images to the registry, disks, profiles
//	hello run     -dir DIR -out RAW           measures, and appends JSON lines
//	hello report  -html FILE -markdown FILE RAW...
//	hello gate    OLD NEW                     fails if a ratio got worse
//
// It needs root, namespaces of mounts and of processes of its own (bench/hello.sh makes them, so that no
// process, mount or network is left when it is killed), containerd, its shim, runc and the distribution registry. What
// other contenders need is looked for on PATH; one that lacks something is left out, with a line that says so.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

var commands = map[string]func(context.Context, []string) error{
	"prepare": prepareCommand,
	"run":     runCommand,
	"report":  reportCommand,
	"gate":    gateCommand,
	"start":   startCommand, // of run: pulls and starts, inside of a host's network
	"delay":   delayCommand, // of run: the link
	"push":    pushCommand,  // of prepare: in the network of the registry
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: hello prepare|run|report|gate ARGUMENT...; see bench/hello/main_linux.go")
		os.Exit(2)
	}
	err := commands[os.Args[1]](ctx, os.Args[2:])
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "hello %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}
