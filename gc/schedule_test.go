package gc_test

import (
	"context"
	"errors"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

// errCrash is what every operation of an actor returns after it was killed.
var errCrash = errors.New("crashed")

// An actor is a goroutine that stops before each operation on the origin until
// the scheduler lets it go on. Only one actor runs at any time, so that a
// schedule is played again by drawing the same numbers.
type actor struct {
	what   string
	parked chan struct{} // the actor is before an operation
	resume chan bool     // go on; false: crash
	done   chan error    // the actor has returned
	dead   bool          // owned by whoever runs: scheduler or actor
	ended  func(err error)
}

// start begins an actor and runs it to its first operation.
func start(what string, body func(a *actor) error, ended func(error)) *actor {
	a := &actor{what: what, parked: make(chan struct{}), resume: make(chan bool), done: make(chan error, 1), ended: ended}
	go func() { a.done <- body(a) }()
	return a
}

// wait returns true when the actor stands before an operation, false when it has
// ended.
func (a *actor) wait() bool {
	select {
	case <-a.parked:
		return true
	case err := <-a.done:
		a.ended(err)
		return false
	}
}

// step lets a parked actor do one operation, or crash, and run on to the next.
func (a *actor) step(crash bool) (parked bool) {
	a.resume <- !crash
	return a.wait()
}

// gate is called before each operation.
func (a *actor) gate(ctx context.Context) error {
	if a.dead {
		return errCrash
	}
	a.parked <- struct{}{}
	if !<-a.resume {
		a.dead = true
		return errCrash
	}
	return ctx.Err()
}

// gatedOrigin is an origin whose operations an actor does one by one.
type gatedOrigin struct {
	gatedPointers
	origin origin.Origin
}

type gatedStore struct {
	gatedPointers
	store origin.Store
	bend  *bend
}

type gatedPointers struct {
	*actor
	pointers origin.Pointers
	bend     *bend
	at       origin.GenerationID // 0: the origin's own
}

// bend makes an actor's view of the origin wrong, for tests that show that the
// model notices. The zero value bends nothing.
type bend struct {
	hide    func(at origin.GenerationID, name string) bool // pointers that listing does not see
	noCopy  bool                                           // chunks are said to be copied and are not
	believe map[string][]byte                              // pointers are read once, and then remembered
}

func gate(a *actor, o origin.Origin, b *bend) *gatedOrigin {
	if b == nil {
		b = &bend{}
	}
	return &gatedOrigin{gatedPointers{a, o, b, 0}, o}
}

func (o *gatedOrigin) Generation(id origin.GenerationID) origin.Store {
	s := o.origin.Generation(id)
	return &gatedStore{gatedPointers{o.actor, s, o.bend, id}, s, o.bend}
}

func (o *gatedOrigin) ListGenerations(ctx context.Context, fn func(id origin.GenerationID) error) error {
	if err := o.gate(ctx); err != nil {
		return err
	}
	return o.origin.ListGenerations(ctx, fn)
}

// DeleteGeneration removes chunk by chunk, object by object and pointer by
// pointer, so that much happens while it does.
func (o *gatedOrigin) DeleteGeneration(ctx context.Context, id origin.GenerationID, tell func(int)) error {
	s := o.Generation(id)
	err := s.List(ctx, func(c chunk.ID, _ int64) error { return s.Remove(ctx, c) })
	if err == nil {
		err = s.ListObjects(ctx, func(d origin.Digest, _ int64) error { return s.RemoveObject(ctx, d) })
	}
	if err == nil {
		err = o.gate(ctx)
	}
	if err != nil {
		return err
	}
	return o.origin.DeleteGeneration(ctx, id, tell)
}

func (o *gatedOrigin) CopyChunk(ctx context.Context, id chunk.ID, from, to origin.GenerationID) (bool, error) {
	if err := o.gate(ctx); err != nil {
		return false, err
	}
	if o.bend.noCopy {
		return true, nil
	}
	return o.origin.CopyChunk(ctx, id, from, to)
}

func (p *gatedPointers) GetPointer(ctx context.Context, name string) ([]byte, error) {
	if v, ok := p.bend.believe[p.at.String()+name]; ok {
		return v, nil
	}
	if err := p.gate(ctx); err != nil {
		return nil, err
	}
	v, err := p.pointers.GetPointer(ctx, name)
	if p.bend.believe != nil && p.at != 0 && err == nil {
		p.bend.believe[p.at.String()+name] = v
	}
	return v, err
}

func (p *gatedPointers) SwapPointer(ctx context.Context, name string, old, new []byte) error {
	if err := p.gate(ctx); err != nil {
		return err
	}
	return p.pointers.SwapPointer(ctx, name, old, new)
}

// ListPointers lists what was there at its beginning.
func (p *gatedPointers) ListPointers(ctx context.Context, prefix string, fn func(name string) error) error {
	if err := p.gate(ctx); err != nil {
		return err
	}
	return p.pointers.ListPointers(ctx, prefix, func(name string) error {
		if p.bend.hide != nil && p.bend.hide(p.at, name) {
			return nil
		}
		return fn(name)
	})
}

func (s *gatedStore) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	if err := s.gate(ctx); err != nil {
		return 0, err
	}
	return s.store.Fetch(ctx, id, dst, off)
}

func (s *gatedStore) Request(ctx context.Context, id chunk.ID) (origin.Request, error) {
	return s.store.Request(ctx, id)
}

func (s *gatedStore) Put(ctx context.Context, id chunk.ID, object []byte) (bool, error) {
	if err := s.gate(ctx); err != nil {
		return false, err
	}
	return s.store.Put(ctx, id, object)
}

func (s *gatedStore) Flush(ctx context.Context) error { return s.store.Flush(ctx) }

func (s *gatedStore) Stat(ctx context.Context, id chunk.ID) (int64, error) {
	if err := s.gate(ctx); err != nil {
		return 0, err
	}
	return s.store.Stat(ctx, id)
}

func (s *gatedStore) List(ctx context.Context, fn func(chunk.ID, int64) error) error {
	if err := s.gate(ctx); err != nil {
		return err
	}
	return s.store.List(ctx, fn)
}

func (s *gatedStore) Remove(ctx context.Context, id chunk.ID) error {
	if err := s.gate(ctx); err != nil {
		return err
	}
	return s.store.Remove(ctx, id)
}

func (s *gatedStore) PutObject(ctx context.Context, data []byte) (origin.Digest, error) {
	if err := s.gate(ctx); err != nil {
		return origin.Digest{}, err
	}
	return s.store.PutObject(ctx, data)
}

func (s *gatedStore) GetObject(ctx context.Context, d origin.Digest, max int64) ([]byte, error) {
	if err := s.gate(ctx); err != nil {
		return nil, err
	}
	return s.store.GetObject(ctx, d, max)
}

func (s *gatedStore) ListObjects(ctx context.Context, fn func(origin.Digest, int64) error) error {
	if err := s.gate(ctx); err != nil {
		return err
	}
	return s.store.ListObjects(ctx, fn)
}

func (s *gatedStore) RemoveObject(ctx context.Context, d origin.Digest) error {
	if err := s.gate(ctx); err != nil {
		return err
	}
	return s.store.RemoveObject(ctx, d)
}

func (s *gatedStore) Attach(ctx context.Context, subject origin.Digest, kind string, data []byte) error {
	if err := s.gate(ctx); err != nil {
		return err
	}
	return s.store.Attach(ctx, subject, kind, data)
}

func (s *gatedStore) ListAttachments(ctx context.Context, subject origin.Digest, kind string, fn func([]byte) error) error {
	if err := s.gate(ctx); err != nil {
		return err
	}
	return s.store.ListAttachments(ctx, subject, kind, fn)
}
