package main

import (
	"fmt"
	"io"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
)

// table prints the results as Markdown.
func table(w io.Writer, results []*result, o *options) {
	fmt.Fprintf(w, "%d rounds of %d reads, of which %.0f begin in a second; %d Redis servers", o.rounds, o.reads, o.rate, nodes)
	if o.latency > 0 {
		fmt.Fprintf(w, ", each behind a link of %v", o.latency)
	}
	fmt.Fprint(w, ".\n\n| nodes | scheme | median | p99 | p99.9 | not read | bytes / chunk | requests / read |\n"+
		"| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n")
	last := ""
	for _, r := range results {
		name := r.condition.name
		if name == last {
			name = ""
		}
		last = r.condition.name
		n := float64(len(r.times))
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %.1f %% | %.2f | %.2f |\n", name, r.scheme.name,
			millis(r.quantile(0.5)), millis(r.quantile(0.99)), millis(r.quantile(0.999)),
			100*float64(r.failed)/n, float64(r.bytes)/n/chunk.Size, float64(r.requests)/n)
	}
}

func millis(d time.Duration) string {
	ms := d.Seconds() * 1000
	if ms < 10 {
		return fmt.Sprintf("%.2f ms", ms)
	}
	return fmt.Sprintf("%.0f ms", ms)
}
