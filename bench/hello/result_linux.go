package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
)

// Kinds of measurements.
const (
	kindStart   = "start"   // a host that has nothing pulls an image and starts it
	kindSecond  = "second"  // the same host starts it again, from a container of its own
	kindDevelop = "develop" // a file changes; the image is built, published and started
	kindSteady  = "steady"  // a container that has read everything
	kindNeeds   = "needs"   // what an image's start reads, found when it was recorded
	kindMachine = "machine" // what it was measured with
)

// A result is one measurement: one line of JSON.
type result struct {
	Kind      string `json:"kind"`
	Link      string `json:"link,omitempty"`
	Image     string `json:"image,omitempty"` // the workload's name
	Contender string `json:"contender,omitempty"`
	Round     int    `json:"round,omitempty"`

	// Seconds.
	Build   float64 `json:"build,omitempty"`   // develop: the layer
	Publish float64 `json:"publish,omitempty"` // develop: all that brings it to the registry
	Pull    float64 `json:"pull,omitempty"`
	Create  float64 `json:"create,omitempty"`
	Ready   float64 `json:"ready,omitempty"`
	// What crossed the link until the container was ready, and requests to the registry.
	Bytes    int64 `json:"bytes,omitempty"`
	Up       int64 `json:"up,omitempty"`
	Requests int   `json:"requests,omitempty"`

	// Of kind needs: the image's compressed layers; the frames, coded, that a start reads.
	Compressed int64 `json:"compressed,omitempty"`
	Needed     int64 `json:"needed,omitempty"`

	// Of kind steady: what was done, and its rate.
	Work string  `json:"work,omitempty"`
	Rate float64 `json:"rate,omitempty"` // operations or bytes a second

	// Of kind machine: what was measured and where, which a run that goes on has to have in common
	// with the one before; and what is told of that.
	Identity string   `json:"identity,omitempty"`
	Facts    []string `json:"facts,omitempty"`
}

// total is the time from nothing to ready.
func (r *result) total() float64 { return r.Build + r.Publish + r.Pull + r.Create + r.Ready }

// maxLine bounds a line of a file of results.
const maxLine = 1 << 20

// readResults reads files of results.
func readResults(names []string) ([]result, error) {
	var all []result
	for _, name := range names {
		list, err := readFile(name)
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	if len(all) == 0 {
		return nil, errors.New("there are no results; \"hello run\" writes some")
	}
	return all, nil
}

func readFile(name string) (list []result, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, maxLine)
	for n := 1; lines.Scan(); n++ {
		var r result
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", name, n, err)
		}
		list = append(list, r)
	}
	return list, lines.Err()
}

// writeResult appends a line, so that a run that is stopped keeps what it has.
func writeResult(f *os.File, r *result) error {
	line, err := json.Marshal(r)
	if err == nil {
		_, err = f.Write(append(line, '\n'))
	}
	return err
}

// median returns the middle of values, 0 of none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}
