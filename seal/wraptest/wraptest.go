// Package wraptest is the suite that every pair of a seal.Wrapper and a
// seal.Unwrapper passes.
package wraptest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
)

// A Pair is a recipient from both sides, and somebody else.
type Pair struct {
	Wrapper   seal.Wrapper
	Unwrapper seal.Unwrapper // of that recipient
	Stranger  seal.Unwrapper // of the same kind, of somebody else
	// Bound says that a wrapped key is refused for another block map; else the
	// map itself has to refuse it.
	Bound bool
}

// about is what the suite's keys open.
var about = seal.About{Map: origin.Sum([]byte("map")), Source: origin.Sum([]byte("source"))}

// Run runs the suite. p makes a Pair, for each test anew; its keys may be the
// same ones.
func Run(t *testing.T, p func(t *testing.T) Pair) {
	for name, test := range map[string]func(*testing.T, Pair){
		"round trip": testRoundTrip,
		"stranger":   testStranger,
		"elsewhere":  testElsewhere,
		"damage":     testDamage,
		"cancelled":  testCancelled,
		"at once":    testAtOnce,
		"secrecy":    testSecrecy,
	} {
		t.Run(name, func(t *testing.T) { test(t, p(t)) })
	}
}

// imageKey returns a key whose bytes are easy to find.
func imageKey(n byte) (key seal.ImageKey) {
	for i := range key {
		key[i] = n + byte(i)*7
	}
	return key
}

func wrap(t *testing.T, p Pair, key seal.ImageKey) []byte {
	t.Helper()
	data, err := p.Wrapper.Wrap(t.Context(), key, about)
	if err != nil {
		t.Fatal(err)
	}
	if len(data) == 0 || len(data) > seal.MaxWrapBytes {
		t.Fatalf("wrapped key of %d bytes, want 1 to %d", len(data), seal.MaxWrapBytes)
	}
	return data
}

func testRoundTrip(t *testing.T, p Pair) {
	if err := origin.ValidKind(p.Wrapper.Kind()); err != nil || p.Wrapper.Kind() != p.Unwrapper.Kind() {
		t.Errorf("kinds %q and %q, %v: want one, that attachments may have", p.Wrapper.Kind(), p.Unwrapper.Kind(), err)
	}
	for n := range byte(3) {
		key := imageKey(n)
		data := wrap(t, p, key)
		kept := slices.Clone(data)
		got, err := p.Unwrapper.Unwrap(t.Context(), data, about)
		if err != nil || got != key {
			t.Fatalf("key %d comes back otherwise, %v", n, err)
		}
		if !bytes.Equal(data, kept) {
			t.Error("Unwrap changed its argument")
		}
		if bytes.Equal(data, wrap(t, p, key)) {
			t.Error("one key was wrapped twice with the same result")
		}
	}
}

func testStranger(t *testing.T, p Pair) {
	if key, err := p.Stranger.Unwrap(t.Context(), wrap(t, p, imageKey(1)), about); !errors.Is(err, seal.ErrNotRecipient) || key != (seal.ImageKey{}) {
		t.Errorf("a stranger: %v; want ErrNotRecipient and no key", err)
	}
}

func testElsewhere(t *testing.T, p Pair) {
	want := imageKey(1)
	data := wrap(t, p, want)
	for name, other := range map[string]seal.About{
		"map":    {Map: origin.Sum([]byte("other")), Source: about.Source},
		"source": {Map: about.Map, Source: origin.Sum([]byte("other"))},
	} {
		key, err := p.Unwrapper.Unwrap(t.Context(), data, other)
		if p.Bound && (err == nil || key != (seal.ImageKey{})) {
			t.Errorf("another %s: %v; want an error and no key", name, err)
		}
		if !p.Bound && (err != nil || key != want) {
			t.Errorf("another %s: %v; want the key, since Pair.Bound is not set", name, err)
		}
	}
}

// testDamage checks that no changed byte gives another key. A few bytes may not
// matter, such as the spelling of a header; then the key is the right one.
func testDamage(t *testing.T, p Pair) {
	key := imageKey(1)
	data := wrap(t, p, key)
	step := max(1, len(data)/64)
	for at := 0; at < len(data); at += step {
		bad := slices.Clone(data)
		bad[at] ^= 0x20
		got, err := p.Unwrapper.Unwrap(t.Context(), bad, about)
		if err == nil && got != key || err != nil && got != (seal.ImageKey{}) {
			t.Errorf("byte %d changed: another key, %v", at, err)
		}
	}
	for _, n := range []int{0, 1, len(data) / 2, len(data) - 1} {
		if _, err := p.Unwrapper.Unwrap(t.Context(), data[:n], about); err == nil {
			t.Errorf("%d bytes of %d are accepted", n, len(data))
		}
	}
	if _, err := p.Unwrapper.Unwrap(t.Context(), append(slices.Clone(data), 0), about); err == nil {
		t.Error("a byte too many is accepted")
	}
}

func testCancelled(t *testing.T, p Pair) {
	data := wrap(t, p, imageKey(1))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Wrapper.Wrap(ctx, imageKey(1), about); !errors.Is(err, context.Canceled) {
		t.Errorf("Wrap, cancelled: %v", err)
	}
	if _, err := p.Unwrapper.Unwrap(ctx, data, about); !errors.Is(err, context.Canceled) {
		t.Errorf("Unwrap, cancelled: %v", err)
	}
}

func testAtOnce(t *testing.T, p Pair) {
	var wg sync.WaitGroup
	for n := range byte(4) {
		wg.Go(func() {
			data, err := p.Wrapper.Wrap(t.Context(), imageKey(n), about)
			if err != nil {
				t.Error(err)
				return
			}
			if got, err := p.Unwrapper.Unwrap(t.Context(), data, about); err != nil || got != imageKey(n) {
				t.Errorf("key %d, among others: another key, %v", n, err)
			}
		})
	}
	wg.Wait()
}

// testSecrecy looks for the key in what is stored, and in what is printed of
// those who know it.
func testSecrecy(t *testing.T, p Pair) {
	key := imageKey(9)
	data := wrap(t, p, key)
	if bytes.Contains(data, key[:8]) {
		t.Error("the key is readable in its wrapping")
	}
	_, err := p.Unwrapper.Unwrap(t.Context(), data[:len(data)-1], about)
	for _, text := range []string{fmt.Sprintf("%v %+v %#v", key, p.Unwrapper, p.Wrapper), fmt.Sprint(err)} {
		for _, form := range []string{string(key[:8]), fmt.Sprintf("%x", key[:8]), fmt.Sprintf("%d", key[:8])} {
			if strings.Contains(text, strings.Trim(form, "[]")) {
				t.Errorf("the key is in %q", text)
			}
		}
	}
}
