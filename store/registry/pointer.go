package registry

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

// DefaultSettle is the usual Options.Settle.
const DefaultSettle = 500 * time.Millisecond

// Annotations of a pointer's manifest.
const (
	noteName  = "com.github.rivuletfs.pointer.name"
	noteValue = "com.github.rivuletfs.pointer.value" // base64
	noteNonce = "com.github.rivuletfs.pointer.nonce" // random: no two manifests of pointers are equal
)

// maxLongNames bounds the names of pointers that are remembered by tag.
const maxLongNames = 1 << 16

// pointers implements [origin.Pointers] by tags.
//
// Registries have no compare-and-swap. A swap reads the tag, compares, writes,
// and reads back what is there: whoever finds another's manifest has lost, and
// gets ErrConflict. Within a process a lock makes that exact. Two processes that
// both read before either writes could both succeed, though, if the first reads
// back before the second writes. That would matter for some pointers of the
// origin, those that slow names. So there a swap waits for a time, settle, in
// which others that have read the old value have written, before it reads back
// (Fischer's mutual exclusion): of those that began with one value, only the
// last to write succeeds. And before it compares, it waits for twice that time
// and looks whether the value has stayed, so that it never begins with one
// whose writer may still lose.
//
// What is left: a process that takes longer than settle from its last look to
// its write, and that a loser's value can be seen for a moment. Other pointers
// do not wait: they are set by publishers of one image at one time, or by its
// readers, and any of their values is right. So who has just read one, and swaps it
// at once, is spared a second reading.
type pointers struct {
	client     *client
	prefix     string        // of its tags
	generation string        // "" for those of the origin
	settle     time.Duration // 0 for those of a generation

	mu    sync.Mutex // guards names
	names map[string]string
}

// slow reports whether a pointer of the origin is changed with care: those of
// packages generation and domain that say what is active.
func slow(name string) bool { return name == "generations" || strings.HasPrefix(name, "salts/") }

// settleTime returns how long a swap of a pointer lets others finish.
func (p *pointers) settleTime(name string) time.Duration {
	if slow(name) {
		return p.settle
	}
	return 0
}

// GetPointer implements [origin.Pointers].
func (p *pointers) GetPointer(ctx context.Context, name string) ([]byte, error) {
	if err := origin.ValidName(name); err != nil {
		return nil, err
	}
	tag := p.lockName(name)
	last := p.client.locks.read(tag)
	changes := last.begin()
	value, was, err := p.read(ctx, name)
	if err == nil || errors.Is(err, chunk.ErrNotFound) {
		last.add(tag, changes, reading{bytes.Clone(value), was, err, time.Now()})
	}
	if err != nil {
		return nil, fmt.Errorf("get pointer %s: %w", name, err)
	}
	return value, nil
}

// lockName names a pointer's tag among those of all repositories.
func (p *pointers) lockName(name string) string {
	return p.client.repo.Name() + ":" + pointerTag(p.prefix, name)
}

// read returns the value of a pointer and the digest of its manifest.
func (p *pointers) read(ctx context.Context, name string) ([]byte, v1.Hash, error) {
	var value []byte
	m, err := p.client.readMatching(ctx, pointerTag(p.prefix, name), func(m *storedManifest) (err error) {
		value, err = base64.StdEncoding.DecodeString(m.note(noteValue))
		if err != nil || m.note(noteName) != name || m.note(noteGeneration) != p.generation || len(value) > origin.MaxPointerBytes {
			return fmt.Errorf("%v is no pointer of that name", m.desc.Digest)
		}
		return nil
	}, typePointer)
	if err != nil {
		return nil, v1.Hash{}, err
	}
	return value, m.desc.Digest, nil
}

// SwapPointer implements [origin.Pointers]; see the type for how far it is
// atomic.
func (p *pointers) SwapPointer(ctx context.Context, name string, old, new []byte) error {
	if err := origin.ValidName(name); err != nil {
		return err
	}
	if len(new) > origin.MaxPointerBytes {
		return fmt.Errorf("swap pointer %s: value of %d bytes, at most %d are allowed", name, len(new), origin.MaxPointerBytes)
	}
	if err := p.swap(ctx, name, old, new); err != nil {
		return fmt.Errorf("swap pointer %s: %w", name, err)
	}
	return nil
}

func (p *pointers) swap(ctx context.Context, name string, old, new []byte) error {
	if new != nil {
		if err := p.client.ensureEmpty(ctx); err != nil {
			return err
		}
	}
	tag := pointerTag(p.prefix, name)
	unlock, err := p.client.locks.lock(ctx, p.lockName(name))
	if err != nil {
		return err
	}
	defer unlock()
	present, was, err := p.readSettled(ctx, name)
	missing := errors.Is(err, chunk.ErrNotFound)
	switch {
	case err != nil && !missing:
		return err
	case missing != (old == nil), !bytes.Equal(present, old):
		return origin.ErrConflict
	case new == nil && missing:
		return nil
	}
	last := p.client.locks.read(p.lockName(name))
	last.change()
	defer last.change()
	if new == nil {
		return p.remove(ctx, name, was)
	}
	b, desc := encodeManifest(p.manifest(name, new))
	if err := p.client.writeManifest(ctx, tag, desc.MediaType, b); err != nil {
		return err
	}
	return p.confirm(ctx, name, desc.Digest)
}

// readSettled is read, for a value that no writer may lose again. A pointer that nobody waits for is not read
// again if it was just now.
func (p *pointers) readSettled(ctx context.Context, name string) ([]byte, v1.Hash, error) {
	settle := p.settleTime(name)
	if settle == 0 {
		lock := p.lockName(name)
		if r, ok := p.client.locks.read(lock).take(lock); ok {
			return r.value, r.was, r.err
		}
	}
	value, was, err := p.read(ctx, name)
	if err != nil || settle == 0 {
		return value, was, err
	}
	if err := sleep(ctx, 2*settle); err != nil {
		return nil, was, err
	}
	value, now, err := p.read(ctx, name)
	if err == nil && now != was || errors.Is(err, chunk.ErrNotFound) {
		return nil, now, origin.ErrConflict
	}
	return value, now, err
}

// confirm checks, when others have had their time, that a pointer's manifest is
// ours. A digest of zeros means that there should be none.
func (p *pointers) confirm(ctx context.Context, name string, want v1.Hash) error {
	if err := sleep(ctx, p.settleTime(name)); err != nil {
		return err
	}
	now, err := p.client.statManifest(ctx, pointerTag(p.prefix, name))
	if err != nil && !errors.Is(err, chunk.ErrNotFound) {
		return err
	}
	if now.Digest != want {
		return origin.ErrConflict
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// remove takes away the pointer whose manifest was read.
func (p *pointers) remove(ctx context.Context, name string, was v1.Hash) error {
	tag := pointerTag(p.prefix, name)
	now, err := p.client.statManifest(ctx, tag)
	if errors.Is(err, chunk.ErrNotFound) || err == nil && now.Digest != was {
		return origin.ErrConflict
	}
	if err != nil {
		return err
	}
	if _, err = p.client.deleteTagged(ctx, tag); err != nil {
		return err
	}
	return p.confirm(ctx, name, v1.Hash{})
}

func (p *pointers) manifest(name string, value []byte) *v1.Manifest {
	m := newManifest(typePointer)
	m.Annotations[noteName] = name
	m.Annotations[noteValue] = base64.StdEncoding.EncodeToString(value)
	m.Annotations[noteNonce] = rand.Text()
	if p.generation != "" {
		m.Annotations[noteGeneration] = p.generation
	}
	return m
}

// ListPointers implements [origin.Pointers]. Names that do not fit into a tag
// cost a request each, once.
func (p *pointers) ListPointers(ctx context.Context, prefix string, fn func(name string) error) error {
	var names, long []string
	err := p.client.tags(ctx, p.prefix, func(tag string) {
		if name, ok := pointerName(p.prefix, tag); ok {
			names = append(names, name)
		} else if mayBegin(p.prefix, tag, prefix) {
			long = append(long, tag)
		}
	})
	if err != nil {
		return err
	}
	found := make([]string, len(long))
	err = each(ctx, len(long), func(ctx context.Context, i int) error {
		var err error
		found[i], err = p.longName(ctx, long[i])
		return err
	})
	if err != nil {
		return fmt.Errorf("list pointers: %w", err)
	}
	names = append(names, found...)
	slices.Sort(names)
	for _, name := range names {
		if name == "" || !strings.HasPrefix(name, prefix) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(name); err != nil {
			return err
		}
	}
	return nil
}

// longName returns the name of the pointer at a tag that is made of its hash;
// "" if it is gone, or none of ours.
func (p *pointers) longName(ctx context.Context, tag string) (string, error) {
	p.mu.Lock()
	name := p.names[tag]
	p.mu.Unlock()
	if name != "" {
		return name, nil
	}
	m, err := p.client.readManifest(ctx, tag, typePointer)
	if errors.Is(err, chunk.ErrNotFound) || errors.Is(err, ErrArtifact) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	name = m.note(noteName)
	if origin.ValidName(name) != nil || pointerTag(p.prefix, name) != tag {
		return "", nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.names == nil || len(p.names) >= maxLongNames {
		p.names = make(map[string]string)
	}
	p.names[tag] = name
	return name, nil
}
