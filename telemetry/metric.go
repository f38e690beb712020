// Package telemetry is what is seen from outside of a rivulet process: its metrics in
// the form of Prometheus, whether it is well, and profiles for who asks.
//
// Nothing is counted here but requests to origins and alarms (Origins): collectors
// (Host, Daemon) read what the parts count anyway when somebody scrapes, and the parts
// know nothing of Prometheus. So what nobody scrapes costs nothing.
//
// Every metric is listed in doc/metrics.md, which a test compares with what collectors
// give. Values of labels come from this program, but for images and nodes: host bounds
// the former (host.ServedKey), the latter are those of the configuration. No guest,
// client or server has a say in them.
package telemetry

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rivuletfs/rivulet/internal/histogram"
)

// A metric is one that a collector gives.
type metric struct {
	name, help string
	kind       string // as in the exposition format
	labels     []string
	desc       *prometheus.Desc
}

// A set is the metrics of one collector.
type set []*metric

func (s *set) add(kind, name, help string, labels []string) *metric {
	m := &metric{name: "rivulet_" + name, help: help, kind: kind, labels: labels}
	m.desc = prometheus.NewDesc(m.name, help, labels, nil)
	*s = append(*s, m)
	return m
}

func (s *set) counter(name, help string, labels ...string) *metric {
	return s.add("counter", name, help, labels)
}

func (s *set) gauge(name, help string, labels ...string) *metric {
	return s.add("gauge", name, help, labels)
}

func (s *set) histogram(name, help string, labels ...string) *metric {
	return s.add("histogram", name, help, labels)
}

func (s set) describe(ch chan<- *prometheus.Desc) {
	for _, m := range s {
		ch <- m.desc
	}
}

// A sink is where a collector's values go.
type sink chan<- prometheus.Metric

// put gives the value of a counter or gauge.
func (ch sink) put(m *metric, value int64, labels ...string) { ch.number(m, float64(value), labels...) }

func (ch sink) number(m *metric, value float64, labels ...string) {
	kind := prometheus.GaugeValue
	if m.kind == "counter" {
		kind = prometheus.CounterValue
	}
	ch <- must(prometheus.NewConstMetric(m.desc, kind, value, labels...))
}

// times gives a histogram, in seconds.
func (ch sink) times(m *metric, c *histogram.Counts, labels ...string) {
	buckets, total := make(map[float64]uint64, histogram.Buckets-1), uint64(0)
	for i, n := range c.Buckets {
		total += uint64(n)
		if i < histogram.Buckets-1 {
			buckets[histogram.Bound(i).Seconds()] = total
		}
	}
	ch <- must(prometheus.NewConstHistogram(m.desc, total, c.Sum.Seconds(), buckets, labels...))
}

// must returns m. The labels are as many as described, and of UTF-8, wherever they come
// from; else a scrape tells the error.
func must(m prometheus.Metric, err error) prometheus.Metric {
	if err != nil {
		return prometheus.NewInvalidMetric(prometheus.NewInvalidDesc(err), fmt.Errorf("telemetry: %w", err))
	}
	return m
}

// truth is a gauge's value for what is or is not.
func truth(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
