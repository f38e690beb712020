package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/rivuletfs/rivulet/cached/cachedclient"
	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/host/control"
)

// observeTime bounds how long an agent or a host cache may take to tell of itself.
const observeTime = 10 * time.Second

// An observation is what the agent and the host cache of this host say of themselves
// at one time.
type observation struct {
	at     time.Time
	socket string        // the agent's
	agent  control.Agent // PID 0: it is too old to tell
	infos  []host.Info
	failed error // why the agent told nothing; control.ErrNoAgent: there is none

	cacheSocket string           // "": no host cache runs, and none was named
	cache       map[string]int64 // its numbers; nil: this user may not see them
	cacheFailed error
}

// observe asks the agent and the host cache, as other commands find them.
func (a *app) observe(ctx context.Context) *observation {
	ctx, cancel := context.WithTimeout(ctx, observeTime)
	defer cancel()
	o := &observation{}
	var asked sync.WaitGroup
	asked.Go(func() {
		o.socket, _, o.failed = a.agentSocket()
		if o.failed == nil && o.socket == "" {
			o.failed = control.ErrNoAgent
		}
		if o.failed == nil {
			o.failed = o.askAgent(ctx)
		}
	})
	if a.client == nil { // one may have been started; it is not to write into what is shown
		a.sought, a.client = true, cachedclient.Find(ctx, a.cache, cachedclient.Config{})
	}
	if c := a.client; c != nil {
		o.cacheSocket = c.Socket()
		o.cacheFailed = o.askCache(ctx, c)
	}
	asked.Wait()
	o.at = time.Now()
	return o
}

func (o *observation) askAgent(ctx context.Context) error {
	c, err := control.Dial(ctx, o.socket)
	if err != nil {
		return err
	}
	if o.infos, err = c.List(ctx); err != nil {
		return err
	}
	o.agent, _ = c.Agent(ctx)
	return nil
}

func (o *observation) askCache(ctx context.Context, c *cachedclient.Client) error {
	list, err := c.DaemonStats(ctx)
	if errors.Is(err, cachedclient.ErrRefused) {
		return nil // it is there
	}
	if err != nil {
		return err
	}
	o.cache = make(map[string]int64, len(list))
	for _, s := range list {
		o.cache[s.Name] = s.Value
	}
	return nil
}

// noAgentAdvice says what to do where no agent answers.
func (o *observation) noAgentAdvice() string {
	if o.socket == "" {
		return "--agent none: name an agent's socket to look at one"
	}
	return fmt.Sprintf("no agent answers at %s; start one with 'rivulet agent', or name its socket with --agent", o.socket)
}

// agentProblem says why the agent told nothing.
func (o *observation) agentProblem() string {
	if errors.Is(o.failed, control.ErrNoAgent) {
		return o.noAgentAdvice()
	}
	if errors.Is(o.failed, context.DeadlineExceeded) {
		return fmt.Sprintf("the agent at %s does not answer within %s; its log may say why", o.socket, span(observeTime))
	}
	return o.failed.Error()
}

// answered says where what disks read came from: how many frames and fetches each
// tier answered.
type answered struct {
	memory, cache, zone, origin int64
}

func answeredBy(s *disk.Stats) answered {
	if s == nil {
		return answered{}
	}
	return answered{s.Hits, s.Near + s.FromCache, s.FromZone, s.FromOrigin}
}

func (t answered) minus(u answered) answered {
	return answered{t.memory - u.memory, t.cache - u.cache, t.zone - u.zone, t.origin - u.origin}
}

func (t answered) plus(u answered) answered {
	return answered{t.memory + u.memory, t.cache + u.cache, t.zone + u.zone, t.origin + u.origin}
}

func (t answered) total() int64 { return t.memory + t.cache + t.zone + t.origin }

// tierRatios is how often each tier had what it was asked for; a tier that was not
// asked is left out.
type tierRatios struct {
	Memory *float64 `json:"memory,omitempty"`
	Cache  *float64 `json:"cache,omitempty"`
	Zone   *float64 `json:"zone,omitempty"`
}

// ratios returns the hit ratios: what one tier lacks, the next is asked for.
func (t answered) ratios() (r tierRatios) {
	ratio := func(hits, misses int64) *float64 {
		if hits+misses <= 0 {
			return nil
		}
		v := float64(hits) / float64(hits+misses)
		return &v
	}
	r.Memory = ratio(t.memory, t.cache+t.zone+t.origin)
	if t.cache > 0 { // where there is none, everything would miss it
		r.Cache = ratio(t.cache, t.zone+t.origin)
	}
	if t.zone > 0 {
		r.Zone = ratio(t.zone, t.origin)
	}
	return r
}

// share writes a ratio for people; "-" for none.
func share(r *float64) string {
	if r == nil {
		return "-"
	}
	return fmt.Sprintf("%.1f %%", 100**r)
}

// diskKey names the disk that an attachment shows: attachments that share one count
// its reads together.
func diskKey(i *host.Info) string {
	s := &i.Spec
	return strings.Join([]string{s.Store, i.Digest, strings.Join(s.Identities, "\x00"), strings.Join(s.Required, "\x00")}, "\x01")
}

// span writes a time for people, in one or two units.
func span(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days %d h", int(d.Hours())/24, int(d.Hours())%24)
}

// diskNamed finds the attachment that people mean by its ID, its directory, its
// address, or its image's name or digest.
func diskNamed(infos []host.Info, arg string) (*host.Info, error) {
	if id := attachmentID(infos, arg); id != "" {
		for n := range infos {
			if infos[n].ID == id {
				return &infos[n], nil
			}
		}
	}
	var found []*host.Info
	for n := range infos {
		if i := &infos[n]; i.Spec.Image == arg || i.Digest == arg || i.Disk == arg || i.Address == arg && arg != "" {
			found = append(found, i)
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("disk %q: %w; 'rivulet agent ls' lists them", arg, host.ErrNotFound)
	case 1:
		return found[0], nil
	}
	ids := make([]string, len(found))
	for n, i := range found {
		ids[n] = i.ID
	}
	return nil, usagef("disk %q is attached %d times; choose one of %s", arg, len(found), strings.Join(ids, ", "))
}
