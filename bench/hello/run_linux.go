package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
)

// A plan is what a run measures.
type plan struct {
	images     []workload
	links      []link
	contenders []contender
	rounds     int
	second     int // up to which round an image is also started again on the same host
	out        *os.File
	had        []result // that out had before this run
}

// has reports whether a run before this one has measured what r is to: one that was stopped goes on
// where it was.
func (p *plan) has(r *result) bool {
	return slices.ContainsFunc(p.had, func(h result) bool {
		return h.Kind == r.Kind && h.Link == r.Link && h.Image == r.Image && h.Contender == r.Contender && h.Round == r.Round && h.Work == r.Work
	})
}

// starts are the kinds of starts that one turn of a contender measures.
func (p *plan) starts(w workload, round int) []string {
	if round > p.second || w.Whole {
		return []string{kindStart}
	}
	return []string{kindStart, kindSecond}
}

// done reports whether nothing is left of a contender's turn: its starts are had, and those of
// whoever follows it and needs its host.
func (p *plan) done(link string, w workload, c *contender, round int) bool {
	for _, kind := range p.starts(w, round) {
		if !p.has(&result{Kind: kind, Link: link, Image: w.Name, Contender: c.Name, Round: round}) {
			return false
		}
	}
	return !slices.ContainsFunc(p.contenders, func(f contender) bool { return f.Follows == c.Name && !p.done(link, w, &f, round) })
}

// previous returns the results that a file has, none if there is no file. What another build
// measured, or another machine, is refused: it would stand for what was never measured here.
func previous(name, identity string) ([]result, error) {
	had, err := readFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(had, func(r result) bool { return r.Kind == kindMachine && r.Identity != identity }) {
		return nil, fmt.Errorf("%s has results of another build or machine; name another file", name)
	}
	return had, nil
}

// list splits what a flag or an environment variable names.
func list(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
}

// split returns the parts between semicolons.
func split(text string) (parts []string) {
	for part := range strings.SplitSeq(text, ";") {
		if part = strings.TrimSpace(part); part != "" {
			parts = append(parts, part)
		}
	}
	return parts
}

func runCommand(ctx context.Context, args []string) (err error) {
	f := flag.NewFlagSet("run", flag.ContinueOnError)
	dir := f.String("dir", "", "folder that prepare has filled")
	out := f.String("out", "", "file that results are appended to; what it has is not measured again")
	images := f.String("images", "", "workloads, or whole for those that read everything (default all starts)")
	linkNames := f.String("links", "", "links (default all)")
	names := f.String("contenders", "", "contenders (default all that can run)")
	cycles := f.String("cycles", "deploy", "deploy, develop, steady")
	told := f.String("facts", "", "what else was measured with, such as a version that a program does not tell; separated by semicolons")
	rounds := f.Int("rounds", 5, "how often each is measured")
	second := f.Int("second", 1000, "up to which round each is also started again on the same host")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *dir == "" || *out == "" {
		return errors.New("-dir and -out are needed")
	}
	b, err := openBench(ctx, *dir)
	if err != nil {
		return err
	}
	defer b.close()
	p := plan{rounds: *rounds, second: *second}
	if p.images, err = workloads(list(*images)); err != nil {
		return err
	}
	if p.contenders, err = chosenContenders(list(*names), b.say); err != nil {
		return err
	}
	if p.links, err = chosenLinks(list(*linkNames)); err != nil {
		return err
	}
	machine, err := b.machine(ctx)
	if err != nil {
		return err
	}
	if p.had, err = previous(*out, machine.Identity); err != nil {
		return err
	}
	machine.Facts = append(machine.Facts, split(*told)...)
	if p.out, err = os.OpenFile(*out, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.out.Close()) }()
	if err := writeResult(p.out, machine); err != nil {
		return err
	}
	for _, cycle := range list(*cycles) {
		switch cycle {
		case "deploy":
			err = b.deploy(ctx, &p)
		case "develop":
			err = b.develop(ctx, &p)
		case "steady":
			err = b.steady(ctx, &p)
		default:
			err = fmt.Errorf("there is no cycle %q", cycle)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", cycle, err)
		}
	}
	return nil
}

func chosenLinks(names []string) ([]link, error) {
	if len(names) == 0 {
		return links, nil
	}
	var chosen []link
	for _, name := range names {
		i := slices.IndexFunc(links, func(l link) bool { return l.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no link %q", name)
		}
		chosen = append(chosen, links[i])
	}
	return chosen, nil
}

// deploy measures the cycle of deployment. Contenders take turns in each round, so that a slow
// minute of the machine meets all.
func (b *bench) deploy(ctx context.Context, p *plan) error {
	if slices.ContainsFunc(p.contenders, func(c contender) bool { return c.Name == rivuletL2 }) {
		if err := b.primeZone(ctx, p); err != nil {
			return err
		}
	}
	for _, l := range p.links {
		if err := b.net.connect(ctx, l); err != nil {
			return err
		}
		// Rounds go round all images, so that a run that is stopped has something of each.
		for round := 1; round <= p.rounds; round++ {
			for _, w := range p.images {
				if err := b.turn(ctx, p, w, round); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// primeZone puts the images into the zone's cache, as publishers can.
func (b *bench) primeZone(ctx context.Context, p *plan) error {
	if err := b.beginZone(ctx); err != nil {
		return err
	}
	if err := b.net.connect(ctx, links[0]); err != nil {
		return err
	}
	for _, w := range p.images {
		if _, err := b.rivulet(ctx, storeProfile, "publish", "oci:"+b.layout(w.Image)+":"+w.Image, "--name", w.Image, "--prime-zone", zoneURL()); err != nil {
			return err
		}
	}
	return nil
}

// turn is one round of one image. A contender that fails is left out of it; that is said, and
// not measured.
func (b *bench) turn(ctx context.Context, p *plan, w workload, round int) error {
	hosts := make(map[string]*host)
	defer func() {
		for _, h := range hosts {
			h.end()
			if err := clearFolder(h.dir); err != nil {
				b.say("%v", err)
			}
		}
	}()
	for i := range p.contenders {
		c := &p.contenders[i]
		if p.done(b.net.link.Name, w, c, round) {
			continue
		}
		h, err := b.hostFor(c, hosts)
		if err == nil {
			hosts[c.Name] = h
			err = b.once(ctx, p, c, h, w, round)
			h.end()
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			b.say("%s, %s, round %d: %v", w.Name, c.Name, round, err)
		}
	}
	return nil
}

// hostFor returns an empty host, or the one that a contender takes over.
func (b *bench) hostFor(c *contender, hosts map[string]*host) (*host, error) {
	if c.Follows == "" {
		return b.newHost(c)
	}
	h := hosts[c.Follows]
	if h == nil {
		return nil, fmt.Errorf("%s follows %s, which was not measured", c.Name, c.Follows)
	}
	delete(hosts, c.Follows)
	return h, h.again("cache")
}

// once measures one contender: a start on its host, and another. It writes what the file lacks;
// the rest is done all the same, as hosts have to be what they would have been.
func (b *bench) once(ctx context.Context, p *plan, c *contender, h *host, w workload, round int) error {
	if err := b.beginHost(ctx, h, c); err != nil {
		return err
	}
	for _, kind := range p.starts(w, round) {
		s, r, err := b.measure(ctx, h, c, w, kind == kindStart)
		if err != nil {
			return err
		}
		if err := s.end(); err != nil {
			return err
		}
		r.Round = round
		if p.has(&r) {
			continue
		}
		if err := writeResult(p.out, &r); err != nil {
			return err
		}
		b.say("%s %s %s %s %d: pull %.2f create %.2f ready %.2f, %.1f MB, %d requests", r.Link, r.Image, r.Contender, r.Kind, round, r.Pull, r.Create, r.Ready, float64(r.Bytes)/1e6, r.Requests)
	}
	return nil
}
