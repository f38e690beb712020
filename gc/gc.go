// Package gc gives the space of an origin back, a generation at a time.
//
// A [Collector] is run every now and then, by whom and by how many does not
// matter: all it knows it reads from the origin, every step is taken by
// compare-and-swap, and a run that was killed anywhere is gone on with by the
// next. One run takes each generation at most one step further:
//
//	active   ─ Policy.New ────► a new one is made; this one is retired
//	retired  ─ Policy.Retired ► all that is wanted is in the active one: expired
//	expired  ─ Policy.Soak ───► nobody read it: closed (deleted), looked through a
//	                            last time, erased, removed
//	erased   ─ Policy.Forget ─► left out of the list
//
// An image is wanted if a name or a pin leads to it, or if it was marked as in
// use within Policy.Recent. What is wanted is carried to the active generation in
// every run, out of all others, before anything else is done to them.
//
// An alarm (generation.Alarm) stops all deletion until a person clears it.
package gc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
)

// A Policy says at what age a generation takes its next step. A duration of 0
// is no time at all; Recent must be at least MinRecent.
type Policy struct {
	New     time.Duration // active, before a new one is made
	Retired time.Duration // retired, before it expires
	Soak    time.Duration // expired, before it is deleted
	Forget  time.Duration // erased, before the list forgets it
	Recent  time.Duration // since an image was marked, while it is wanted for that
}

const day = 24 * time.Hour

// DefaultPolicy suits an origin that changes daily.
var DefaultPolicy = Policy{New: 30 * day, Retired: 7 * day, Soak: 7 * day, Forget: 90 * day, Recent: 14 * day}

// MinRecent is the least Policy.Recent: marks are written once a day, and clocks
// differ.
const MinRecent = 2 * day

var (
	// ErrAlarm is returned (wrapped) when an alarm stops a deletion.
	ErrAlarm = errors.New("an alarm stops deletion")
	// ErrWanted is returned (wrapped) when a generation that was to be deleted
	// turned out to have something that is wanted and lies nowhere else.
	ErrWanted = errors.New("something in it is still wanted")
)

// A Collector collects one origin. Any number of them may work at once.
type Collector struct {
	Origin origin.Origin
	Policy Policy           // DefaultPolicy, or another one
	Copies int              // chunks copied at one time; 0: generation.DefaultCopies
	Who    string           // told in alarms; "": host and process
	Now    func() time.Time // the clock; nil: time.Now
	Logger *slog.Logger     // told of each step; nil: nobody
	Tell   func(Progress)   // told how it goes on, by several goroutines; nil: nobody
}

// A Progress is one thing that was done.
type Progress struct {
	Copied  int // chunks copied forward by this
	Removed int // things removed of the generation that is being deleted, so far
}

// A Report tells what a run did.
type Report struct {
	Active   origin.GenerationID   `json:"active"`
	Made     []origin.GenerationID `json:"made,omitempty"`    // became active
	Expired  []origin.GenerationID `json:"expired,omitempty"` // became expired
	Deleted  []origin.GenerationID `json:"deleted,omitempty"` // was erased
	Images   int                   `json:"images"`            // that are wanted
	Carried  int                   `json:"carried"`           // images looked after in other generations than the active
	Copied   int                   `json:"copied"`            // chunks copied for that
	Lost     []string              `json:"lost,omitempty"`    // wanted, and in no generation
	Unmarked int                   `json:"unmarked"`          // marks too old to matter, removed
	Alarms   []generation.Alarm    `json:"alarms,omitempty"`  // that stop deletion
}

func (c *Collector) now() time.Time {
	if c.Now == nil {
		return time.Now()
	}
	return c.Now()
}

func (c *Collector) copies() int {
	if c.Copies == 0 {
		return generation.DefaultCopies
	}
	return c.Copies
}

func (c *Collector) log() *slog.Logger {
	if c.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Logger
}

func (c *Collector) who() string {
	if c.Who != "" {
		return c.Who
	}
	host, _ := os.Hostname()
	return fmt.Sprintf("collector on %s, process %d", host, os.Getpid())
}

func (c *Collector) tell(p Progress) {
	if c.Tell != nil {
		c.Tell(p)
	}
}

func (c *Collector) forwarder() *generation.Forwarder {
	tell := func(n int) { c.tell(Progress{Copied: n}) }
	return &generation.Forwarder{Origin: c.Origin, Copies: c.Copies, Tell: tell}
}

// Run takes every generation one step further whose time has come. The report is
// returned with an error too, of what was done until then.
func (c *Collector) Run(ctx context.Context) (*Report, error) {
	r := &Report{}
	err := c.resume(ctx, r)
	var full error // that there is no room for a new generation must not keep old ones from going
	if err == nil {
		full = c.renew(ctx, r)
	}
	if err == nil {
		err = c.advance(ctx, r)
	}
	if err == nil {
		err = c.tidy(ctx, r)
	}
	if l, loadErr := generation.Load(ctx, c.Origin); loadErr == nil {
		r.Active = l.Active()
	}
	if err = errors.Join(full, err); err != nil {
		return r, fmt.Errorf("collect: %w", err)
	}
	return r, nil
}

// resume ends the deletions that an earlier run began.
func (c *Collector) resume(ctx context.Context, r *Report) error {
	if _, err := generation.New(ctx, c.Origin, 0, c.now()); err != nil { // the first one, if there is none
		return err
	}
	l, err := generation.Load(ctx, c.Origin)
	if err != nil {
		return err
	}
	for _, e := range l {
		if e.State == generation.StateDeleted {
			if err := c.stopped(r, c.finish(ctx, e.ID, r)); err != nil {
				return err
			}
		}
	}
	return c.sweep(ctx, r)
}

// sweep removes what lies in erased generations: what a deletion that was killed
// has left, and what was written there too late.
func (c *Collector) sweep(ctx context.Context, r *Report) error {
	l, err := generation.Load(ctx, c.Origin)
	if err != nil {
		return err
	}
	var ids []origin.GenerationID
	err = c.Origin.ListGenerations(ctx, func(id origin.GenerationID) error {
		if l.State(id) == generation.StateErased {
			ids = append(ids, id)
		}
		return nil
	})
	slices.Sort(ids)
	for _, id := range ids {
		if err == nil {
			err = c.stopped(r, c.erase(ctx, id))
		}
	}
	return err
}

// stopped makes no failure of what an alarm, or something wanted, has stopped:
// the report has the alarms.
func (c *Collector) stopped(r *Report, err error) error {
	var alarms alarmsError
	if errors.As(err, &alarms) {
		r.Alarms = alarms
		return nil
	}
	if errors.Is(err, generation.ErrState) || errors.Is(err, ErrWanted) {
		return nil // another collector was there before, or somebody has cleared the alarm already
	}
	return err
}

// renew makes a new active generation if the present one is old.
func (c *Collector) renew(ctx context.Context, r *Report) error {
	l, err := generation.Load(ctx, c.Origin)
	if err != nil {
		return err
	}
	now, last := c.now(), l[len(l)-1]
	if now.Sub(last.Since) < c.Policy.New {
		return nil
	}
	id, err := generation.New(ctx, c.Origin, last.ID, now)
	if err != nil {
		return err
	}
	c.log().Info("new generation", "generation", id, "retired", last.ID)
	r.Made = append(r.Made, id)
	return nil
}

// advance carries what is wanted, and then lets generations expire and be deleted
// whose time has come. It does so by the states that were read before that: what
// became retired or expired since was perhaps not looked at.
func (c *Collector) advance(ctx context.Context, r *Report) error {
	l, err := c.carry(ctx, r)
	for _, e := range l { // oldest first
		if err != nil {
			break
		}
		age := c.now().Sub(e.Since)
		switch {
		case e.State == generation.StateRetired && age >= c.Policy.Retired:
			err = c.stopped(r, c.expireOne(ctx, e.ID, r))
		case e.State == generation.StateExpired && age >= c.Policy.Soak:
			err = c.stopped(r, c.deleteOne(ctx, e.ID, r))
		}
	}
	return err
}

func (c *Collector) expireOne(ctx context.Context, id origin.GenerationID, r *Report) error {
	err := generation.Advance(ctx, c.Origin, id, generation.StateRetired, generation.StateExpired, c.now())
	if err != nil {
		return err
	}
	c.log().Info("generation expired", "generation", id)
	r.Expired = append(r.Expired, id)
	return nil
}

// tidy removes marks that are too old to matter, and forgets generations that
// were erased long ago.
func (c *Collector) tidy(ctx context.Context, r *Report) error {
	now := c.now()
	err := generation.Marks(ctx, c.Origin, now, func(d origin.Digest, of time.Time) error {
		if now.Sub(of) <= c.Policy.Recent {
			return nil
		}
		r.Unmarked++
		return generation.Unmark(ctx, c.Origin, d, of)
	})
	if err != nil {
		return err
	}
	return generation.Forget(ctx, c.Origin, now.Add(-c.Policy.Forget))
}

// Retire makes generation id retired, by a new active one if need be, and
// carries what is wanted out of all but the active generation.
func (c *Collector) Retire(ctx context.Context, id origin.GenerationID) (*Report, error) {
	r := &Report{}
	l, err := generation.Load(ctx, c.Origin)
	if err == nil && l.Active() == id {
		r.Active, err = generation.New(ctx, c.Origin, id, c.now())
		r.Made = append(r.Made, r.Active)
	} else if err == nil && l.State(id) != generation.StateRetired {
		err = fmt.Errorf("retire generation %v: it is %v: %w", id, l.State(id), generation.ErrState)
	}
	if err == nil {
		_, err = c.carry(ctx, r)
	}
	return r, err
}

// Expire makes generation id expired, when all that is wanted has been carried
// to the active one.
func (c *Collector) Expire(ctx context.Context, id origin.GenerationID) (*Report, error) {
	return c.one(ctx, id, generation.StateRetired, c.expireOne)
}

// Delete removes generation id, which must be expired, at whatever age. The error
// is ErrAlarm or ErrWanted if there are reasons not to.
func (c *Collector) Delete(ctx context.Context, id origin.GenerationID) (*Report, error) {
	return c.one(ctx, id, generation.StateExpired, c.deleteOne)
}

// one takes a generation that is in state s a step further, when all that is
// wanted has been carried.
func (c *Collector) one(ctx context.Context, id origin.GenerationID, s generation.State, step func(context.Context, origin.GenerationID, *Report) error) (*Report, error) {
	r := &Report{}
	l, err := c.carry(ctx, r)
	if err == nil && l.State(id) != s {
		err = fmt.Errorf("generation %v is %v, not %v: %w", id, l.State(id), s, generation.ErrState)
	}
	if err == nil {
		err = step(ctx, id, r)
	}
	return r, err
}

func unlessMissing(err error) error {
	if errors.Is(err, chunk.ErrNotFound) {
		return nil
	}
	return err
}
