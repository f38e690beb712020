// Attach measures what an attachment costs an agent that runs: it has images
// attached, all requests at once, and prints the agent's processor time and memory
// for each, as a JSON object. With -read, each disk is read once over NBD as soon as
// it is attached. It detaches them again.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/frontend/nbd/nbdclient"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/host/control"
)

func main() {
	var o options
	flag.StringVar(&o.socket, "agent", "", "the agent's socket")
	flag.IntVar(&o.pid, "pid", 0, "the agent's process")
	flag.StringVar(&o.store, "store", "", "store's URL")
	flag.IntVar(&o.n, "n", 200, "attachments; images take turns")
	flag.StringVar(&o.frontend, "frontend", "nbd", "nbd, file or mount")
	flag.Int64Var(&o.read, "read", -1, "read 4 KiB of each disk there")
	flag.Parse()
	if err := o.run(flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "attach:", err)
		os.Exit(1)
	}
}

type options struct {
	socket, store, frontend string
	pid, n                  int
	read                    int64 // -1: nothing is
}

// A result is what is printed: means over the attachments, but for the wait.
type result struct {
	Attachments int     `json:"attachments"`
	Images      int     `json:"images"`
	Seconds     float64 `json:"seconds"`          // until all were attached
	CPU         float64 `json:"cpu_us"`           // of the agent, an attachment
	Memory      float64 `json:"memory_kib"`       // resident, an attachment
	Total       int64   `json:"total_kib"`        // resident, in the end
	Median      float64 `json:"median_wait_ms"`   // of a request
	P99         float64 `json:"p99_wait_ms"`      // of a request
	Read        float64 `json:"median_read_ms"`   // of the first read, from the request to attach on
	P99Read     float64 `json:"p99_read_ms"`      // the same
	Detach      float64 `json:"detach_cpu_us"`    // of the agent, an attachment
	Descriptors float64 `json:"descriptors"`      // an attachment
	Left        int     `json:"descriptors_left"` // after detaching, more than before
}

func (o *options) run(images []string) error {
	if len(images) == 0 {
		return errors.New("want the names of images")
	}
	ctx := context.Background()
	c, err := control.Dial(ctx, o.socket)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "attach-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	before, err := o.measure()
	if err != nil {
		return err
	}
	start := time.Now()
	ids, waits, reads, err := o.attach(ctx, c, dir, images)
	if err != nil {
		return err
	}
	r := result{Attachments: o.n, Images: len(images), Seconds: time.Since(start).Seconds()}
	after, err := o.measure()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := c.Detach(ctx, id, true, time.Second); err != nil {
			return err
		}
	}
	end, err := o.measure()
	if err != nil {
		return err
	}
	n := float64(o.n)
	r.CPU = float64((after.cpu - before.cpu).Microseconds()) / n
	r.Detach = float64((end.cpu - after.cpu).Microseconds()) / n
	r.Memory, r.Total = float64(after.rss-before.rss)/n, after.rss
	r.Descriptors, r.Left = float64(after.files-before.files)/n, end.files-before.files
	r.Median, r.P99 = quantiles(waits)
	r.Read, r.P99Read = quantiles(reads)
	return json.NewEncoder(os.Stdout).Encode(r)
}

// quantiles returns median and 99th percentile in milliseconds.
func quantiles(times []time.Duration) (median, p99 float64) {
	slices.Sort(times)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return ms(times[len(times)/2]), ms(times[len(times)*99/100])
}

// attach has everything attached at once, and read.
func (o *options) attach(ctx context.Context, c *control.Client, dir string, images []string) (ids []string, waits, reads []time.Duration, err error) {
	ids, waits, reads = make([]string, o.n), make([]time.Duration, o.n), make([]time.Duration, o.n)
	var g errgroup.Group
	for i := range o.n {
		s := host.Spec{
			Image: images[i%len(images)], Store: o.store, Frontend: o.frontend,
			Name: fmt.Sprintf("disk%d", i), Where: "unix:" + filepath.Join(dir, "s"),
		}
		if o.frontend != "nbd" {
			s.Where = filepath.Join(dir, s.Name)
			if err := os.Mkdir(s.Where, 0o700); err != nil {
				return nil, nil, nil, err
			}
		}
		g.Go(func() error {
			start := time.Now()
			infos, err := c.Attach(ctx, s)
			if err != nil {
				return err
			}
			ids[i], waits[i] = infos[0].ID, time.Since(start)
			if o.read >= 0 {
				err = readOnce(ctx, infos[0].Address, o.read)
			}
			reads[i] = time.Since(start)
			return err
		})
	}
	return ids, waits, reads, g.Wait()
}

// readOnce reads a page of a disk over NBD.
func readOnce(ctx context.Context, uri string, off int64) error {
	c, err := nbdclient.Dial(ctx, uri)
	if err != nil {
		return err
	}
	_, err = c.ReadAt(make([]byte, 4096), off)
	return errors.Join(err, c.Close())
}

// A reading is what the kernel says of the agent.
type reading struct {
	cpu   time.Duration
	rss   int64 // KiB
	files int
}

func (o *options) measure() (r reading, err error) {
	proc := fmt.Sprintf("/proc/%d/", o.pid)
	threads, err := filepath.Glob(proc + "task/*/schedstat")
	if err != nil {
		return r, err
	}
	for _, t := range threads {
		b, err := os.ReadFile(t)
		if err != nil {
			continue // it has ended
		}
		var ns int64
		if _, err := fmt.Sscan(string(b), &ns); err != nil {
			return r, err
		}
		r.cpu += time.Duration(ns)
	}
	status, err := os.ReadFile(proc + "status")
	if err != nil {
		return r, err
	}
	_, line, _ := strings.Cut(string(status), "VmRSS:")
	if _, err := fmt.Sscan(line, &r.rss); err != nil {
		return r, fmt.Errorf("memory of process %d: %w", o.pid, err)
	}
	names, err := os.ReadDir(proc + "fd")
	r.files = len(names)
	return r, err
}
