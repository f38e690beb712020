// Command vhostload reads a disk over vhost-user-blk, without a virtual machine, and
// prints how fast that went as a JSON object.
//
//	vhostload -socket PATH [-bs BYTES] [-depth N] [-queues N] [-random] [-offset BYTES] [-size BYTES] [-for TIME]
//	vhostload -serve FILE -socket PATH [-poll TIME]
//
// Each queue has one goroutine that keeps depth reads in flight. Random reads are
// aligned to their size. With -serve it is a back end instead, that of package
// frontend/vhostuser on the file as it is.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"slices"
	"sync"
	"time"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/frontend/vhostuser"
	"github.com/rivuletfs/rivulet/frontend/vhostuser/vhostuserclient"
)

type load struct {
	socket              string
	block, depth, queue int
	random              bool
	offset, size        int64
	run                 time.Duration
}

func main() {
	var l load
	var file string
	var poll time.Duration
	flag.StringVar(&l.socket, "socket", "", "of the back end")
	flag.IntVar(&l.block, "bs", 4096, "bytes of a read")
	flag.IntVar(&l.depth, "depth", 1, "reads in flight on each queue")
	flag.IntVar(&l.queue, "queues", 1, "queues")
	flag.BoolVar(&l.random, "random", false, "read anywhere in the window, not one after the other")
	flag.Int64Var(&l.offset, "offset", 0, "where the window begins, in bytes")
	flag.Int64Var(&l.size, "size", 0, "bytes of the window; 0: to the end of the disk")
	flag.DurationVar(&l.run, "for", 0, "how long; 0: once through the window")
	flag.StringVar(&file, "serve", "", "be a back end for this file")
	flag.DurationVar(&poll, "poll", 0, "how long that polls at most")
	flag.Parse()
	run := l.read
	if file != "" {
		run = func() error { return serve(file, l.socket, poll) }
	}
	err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vhostload:", err)
		os.Exit(1)
	}
}

func serve(file, socket string, poll time.Duration) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		return err
	}
	ln, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	s := &vhostuser.Server{
		Export: vhostuser.Export{Device: blockdev.NewFlat(f, st.Size())}, Poll: poll,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
	return s.Serve(ctx, ln)
}

// A report is what one run gave.
type report struct {
	Reads  int64   `json:"reads"`
	Rate   float64 `json:"reads_per_second"`
	P50    float64 `json:"p50_us"`
	P99    float64 `json:"p99_us"`
	Wakes  int64   `json:"waits"`
	Errors int64   `json:"errors"`
}

func (l *load) read() error {
	c, err := vhostuserclient.Dialer{Queues: l.queue, Depth: l.depth, Buffer: max(4096, l.block)}.Dial(context.Background(), l.socket)
	if err != nil {
		return err
	}
	if l.size == 0 {
		l.size = c.Size() - l.offset
	}
	if l.offset+l.size > c.Size() || l.size < int64(l.block) {
		return errors.New("the window is not within the disk")
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var all []time.Duration
	var sum report
	var errs []error
	start := time.Now()
	for i := range l.queue {
		wg.Go(func() {
			w := worker{load: l, q: c.Queue(i), r: rand.New(rand.NewPCG(uint64(i), 1)), began: make([]time.Time, l.depth)}
			err := w.work(start)
			mu.Lock()
			defer mu.Unlock()
			all, errs = append(all, w.took...), append(errs, err)
			sum.Reads += w.done
			sum.Wakes += w.waits
			sum.Errors += w.failed
		})
	}
	wg.Wait()
	took := time.Since(start)
	if err := errors.Join(append(errs, c.Close())...); err != nil {
		return err
	}
	slices.Sort(all)
	sum.Rate = float64(sum.Reads) / took.Seconds()
	if len(all) > 0 {
		at := func(part float64) float64 { return float64(all[int(part*float64(len(all)-1))].Nanoseconds()) / 1000 }
		sum.P50, sum.P99 = at(0.5), at(0.99)
	}
	return json.NewEncoder(os.Stdout).Encode(sum)
}

// A worker loads one queue.
type worker struct {
	*load
	q                   *vhostuserclient.Queue
	r                   *rand.Rand
	began               []time.Time // by slot
	took                []time.Duration
	done, waits, failed int64
	sent                int64
}

func (w *worker) work(start time.Time) error {
	inFlight := 0
	for slot := range w.depth {
		if w.submit(slot, start) {
			inFlight++
		}
	}
	w.q.Kick()
	for inFlight > 0 {
		slot, err, ok := w.q.Reap()
		if !ok {
			w.q.Kick()
			w.waits++
			if err := w.q.Wait(); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			w.failed++
		}
		w.done++
		if w.done%16 == 0 { // the list of all would not stay in the caches
			w.took = append(w.took, time.Since(w.began[slot]))
		}
		if !w.submit(slot, start) {
			inFlight--
		}
	}
	return nil
}

// submit sends the next read, unless the run is over.
func (w *worker) submit(slot int, start time.Time) bool {
	now := time.Now()
	blocks := w.size / int64(w.block)
	if w.run > 0 && now.Sub(start) > w.run || w.run == 0 && w.sent == blocks {
		return false
	}
	b := w.sent % blocks
	if w.random {
		b = w.r.Int64N(blocks)
	}
	w.sent++
	w.began[slot] = now
	w.q.Read(slot, uint64(w.offset+b*int64(w.block))/blockdev.SectorSize, w.block)
	w.q.Submit(slot)
	return true
}
