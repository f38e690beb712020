// Package slowread tells of slow reads: in the log, and as traces of OpenTelemetry.
//
// What is told is a disk.SlowRead, which disks make of reads that took too long, when
// they are over. So the sampling is by tail, and a read that is fast has paid for
// nothing but the notes that a fetch keeps anyway (chunk.Trace): spans are made
// afterwards, with the times of the notes.
//
//	read ─┬─ memory             had nothing
//	      ├─ fetch ─┬─ cache ─┬─ zone      what the daemon asked, as it says itself
//	      │         │         └─ origin
//	      │         └─ origin              by this process
//	      └─ fetch …                       others that the same read waited for
//
// Spans wait in a bounded queue of the library's and are sent by a goroutine of its;
// what does not fit is dropped. Nothing here blocks a read.
package slowread

import (
	"log/slog"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/internal/loglimit"
)

// Log returns a function that writes a line for each slow read, loglimit.PerSecond at
// most. It is a disk.Options.OnSlow.
func Log(l *slog.Logger) func(*disk.SlowRead) {
	l = loglimit.New(l)
	return func(r *disk.SlowRead) {
		attrs := []any{
			slog.Duration("took", r.Wait), slog.String("tier", r.Tier.String()),
			slog.String("attachment", r.Reader), slog.String("disk", r.Disk),
			slog.Int64("offset", r.Offset), slog.Int("length", r.Length), slog.Int("fetches", len(r.Fetches)+r.More),
		}
		if f := slowest(r); f != nil {
			attrs = append(attrs, slog.String("chunk", f.Chunk.String()), slog.Duration("queued", f.Queued))
			for t := chunk.HostCache; t <= chunk.Origin; t++ {
				if took, asked := inTier(f, t); asked {
					attrs = append(attrs, slog.Duration(t.String(), took))
				}
			}
		}
		if r.Err != nil {
			attrs = append(attrs, slog.Any("err", r.Err))
		}
		l.Warn("slow read", attrs...)
	}
}

// slowest returns the fetch that ended last; nil if there is none.
func slowest(r *disk.SlowRead) (last *disk.SlowFetch) {
	for i := range r.Fetches {
		f := &r.Fetches[i]
		if last == nil || end(f).After(end(last)) {
			last = f
		}
	}
	return last
}
