package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/cached/cachedclient"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/host/control"
)

// Bounds of what is well.
const (
	hungAfter    = 10 * time.Second // a read that waits for so long hangs
	failedRecent = 5 * time.Minute  // for so long a read that failed is told of
)

// A diskStatus is an attachment as status shows it.
type diskStatus struct {
	host.Info
	Ratios tierRatios `json:"hit_ratios"`
	Hung   bool       `json:"hung"` // a read waits for more than 10 s
}

// A daemonStatus tells of the host cache.
type daemonStatus struct {
	Socket  string               `json:"socket"`
	About   *cachedclient.Daemon `json:"about,omitempty"`
	Numbers map[string]int64     `json:"numbers,omitempty"` // as of 'rivulet cache stats'
	Problem string               `json:"problem,omitempty"`
}

// An agentStatus tells of the agent.
type agentStatus struct {
	Socket  string         `json:"socket"`
	About   *control.Agent `json:"about,omitempty"`
	Problem string         `json:"problem,omitempty"`
}

// A hostStatus is what status says.
type hostStatus struct {
	Healthy  bool               `json:"healthy"`
	Problems []string           `json:"problems"`
	Version  string             `json:"version"` // of this command
	Agent    agentStatus        `json:"agent"`
	Disks    []diskStatus       `json:"attachments"`
	Stores   []host.StoreHealth `json:"stores"`
	Cache    *daemonStatus      `json:"cache,omitempty"` // nil: none runs
}

func (a *app) statusCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show at a glance how this host's agent, disks, stores and cache are",
		Long: `Status asks the agent and the host cache, and has the agent ask its stores. Hit
ratios are of the time since a disk was opened: how many of the frames that were
read were in memory, and of what was fetched for the others, how much the host
cache had, and of the rest the zone's. Attachments that share a disk have its hit
ratios.

The exit status says whether all is well:

    0  it is
    1  it could not be found out
    2  wrong usage
    3  something is not: an attachment is not ready, a read hangs (for more than
       10 s), one failed in the last five minutes, or the agent, a store or a host
       cache that was found does not answer
    4  no agent runs`,
		Example: `  rivulet status
  rivulet status --json | jq .problems`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o := a.observe(cmd.Context())
			if err := cmd.Context().Err(); err != nil {
				return err
			}
			s := newHostStatus(o, a.askStores(cmd.Context(), o))
			a.askDaemon(cmd.Context(), s.Cache)
			if asJSON {
				if err := a.printJSON(s); err != nil {
					return err
				}
			} else if err := s.write(a.out, o.at); err != nil {
				return err
			}
			return s.verdict(o)
		},
	}
	a.observeFlags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object")
	return cmd
}

// observeFlags gives a command the choice of the agent and the host cache to look at.
func (a *app) observeFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&a.agent, "agent", "", "the agent's socket (default $"+agentEnvironment+", or one in the user's runtime folder)")
	cmd.Flags().StringVar(&a.cache, "cache", "", "socket of the host cache, or none (default $RIVULET_CACHED, or the usual place)")
}

// askStores has the agent that was observed ask its stores.
func (a *app) askStores(ctx context.Context, o *observation) []host.StoreHealth {
	if o.failed != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, observeTime)
	defer cancel()
	c, err := control.Dial(ctx, o.socket)
	if err != nil {
		return nil
	}
	list, _ := c.Stores(ctx) // an older agent cannot tell
	return list
}

// askDaemon has the host cache say what it is, if it answers.
func (a *app) askDaemon(ctx context.Context, s *daemonStatus) {
	if s == nil || s.Problem != "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, observeTime)
	defer cancel()
	if about, err := a.client.About(ctx); err == nil { // an older one cannot tell
		s.About = &about
	}
}

func newHostStatus(o *observation, stores []host.StoreHealth) *hostStatus {
	s := &hostStatus{
		Problems: []string{}, Version: programVersion(), Agent: agentStatus{Socket: o.socket},
		Disks: []diskStatus{}, Stores: append([]host.StoreHealth{}, stores...),
	}
	problem := func(format string, args ...any) { s.Problems = append(s.Problems, fmt.Sprintf(format, args...)) }
	if o.failed != nil {
		s.Agent.Problem = o.agentProblem()
		problem("%s", s.Agent.Problem)
	} else if o.agent.PID != 0 {
		s.Agent.About = &o.agent
	}
	for _, i := range o.infos {
		d := diskStatus{Info: i, Ratios: answeredBy(i.Reads).ratios(), Hung: i.LongestWait >= hungAfter}
		name := fmt.Sprintf("%s (%s)", i.ID, printable(i.Spec.Image))
		if i.State != host.Ready {
			problem("%s is %s: %s", name, i.State, printable(i.Problem))
		}
		if d.Hung {
			problem("%s: reads wait, one of them for %s", name, span(i.LongestWait))
		}
		if since := o.at.Sub(i.Failed); !i.Failed.IsZero() && since < failedRecent {
			problem("%s: a read failed %s ago; 'rivulet explain %s' tells more", name, span(since), i.ID)
		}
		s.Disks = append(s.Disks, d)
	}
	for _, st := range stores {
		if st.Problem != "" {
			problem("store %s does not answer: %s", printable(st.Store), printable(st.Problem))
		}
	}
	if o.cacheSocket != "" {
		s.Cache = &daemonStatus{Socket: o.cacheSocket, Numbers: o.cache}
		if o.cacheFailed != nil {
			s.Cache.Problem = o.cacheFailed.Error()
			problem("the host cache at %s: %v; start it with 'rivulet cached'", o.cacheSocket, o.cacheFailed)
		}
	}
	s.Healthy = len(s.Problems) == 0
	return s
}

// verdict is the error that ends the command.
func (s *hostStatus) verdict(o *observation) error {
	switch {
	case s.Healthy:
		return nil
	case errors.Is(o.failed, control.ErrNoAgent):
		return exitError{errors.New(o.noAgentAdvice()), exitNoAgent}
	case errors.Is(o.failed, os.ErrPermission):
		return o.failed // it may be well
	case len(s.Problems) == 1:
		return exitError{errors.New(s.Problems[0]), exitUnwell}
	}
	return exitError{fmt.Errorf("%d things are not well, first: %s", len(s.Problems), s.Problems[0]), exitUnwell}
}

// write writes the status for people.
func (s *hostStatus) write(out io.Writer, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	switch {
	case s.Agent.Problem != "":
		fmt.Fprintf(w, "agent\t%s\n", s.Agent.Problem)
	case s.Agent.About == nil:
		fmt.Fprintf(w, "agent\tanswers at %s; it is older than this command\n", s.Agent.Socket)
	default:
		about := s.Agent.About
		fmt.Fprintf(w, "agent\t%s, up %s, process %d, %s\n", printable(about.Version), span(now.Sub(about.Since)), about.PID, s.Agent.Socket)
	}
	if c := s.Cache; c != nil && c.Problem == "" && c.About == nil {
		fmt.Fprintf(w, "cache\tanswers at %s; it is older than this command\n", c.Socket)
	} else if c != nil && c.About != nil {
		fmt.Fprintf(w, "cache\t%s, up %s, process %d, %s\n", printable(c.About.Version), span(now.Sub(c.About.Since)), c.About.PID, c.Socket)
	}
	switch c := s.Cache; {
	case c == nil:
		fmt.Fprint(w, "cache\tno host cache runs\n")
	case c.Problem != "":
		fmt.Fprintf(w, "cache\t%s\n", printable(c.Problem))
	case c.Numbers == nil:
		fmt.Fprint(w, "\tits numbers are for root and its own user\n")
	default:
		n := c.Numbers
		fmt.Fprintf(w, "\t%s of %s (%s), %d chunks\n", size(n["bytes"]), size(n["max_bytes"]), percent(n["bytes"], n["max_bytes"]), n["chunks"])
		fmt.Fprintf(w, "\thad %s of %d requests; %d downloads, %d failed; %d damaged\n",
			percent(n["hits"], n["hits"]+n["flights"]), n["hits"]+n["flights"], n["downloads"], n["failed_downloads"], n["damaged"])
		if asked := n["zone_hits"] + n["zone_misses"]; asked > 0 {
			fmt.Fprintf(w, "zone\thad %s of %d chunks\n", percent(n["zone_hits"], asked), asked)
		}
	}
	for _, st := range s.Stores {
		if st.Problem != "" {
			fmt.Fprintf(w, "store\t%s: %s\n", printable(st.Store), printable(st.Problem))
		} else {
			fmt.Fprintf(w, "store\t%s answers in %s\n", printable(st.Store), span(st.Took))
		}
	}
	if err := w.Flush(); err != nil || len(s.Disks) == 0 {
		return err
	}
	fmt.Fprintln(w, "\nDISK\tIMAGE\tWHERE\tSTATE\tREADS\tBYTES\tMEMORY\tCACHE\tZONE\tSLOW\tFAILED\tHUNG\tWAITING")
	for i := range s.Disks {
		s.Disks[i].write(w)
	}
	s.writeStarts(w)
	return w.Flush()
}

func (d *diskStatus) write(w io.Writer) {
	where := d.Address
	if where == "" {
		where = d.Spec.Where
	}
	waits := "-"
	if d.Waits > 0 {
		waits = fmt.Sprintf("%d, up to %s", d.Waits, span(d.LongestWait))
	}
	if d.Hung {
		waits += ", too long"
	}
	fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%s\n", d.ID, printable(d.Spec.Image), printable(where), d.State,
		d.Served.Reads, size(d.Served.Bytes), share(d.Ratios.Memory), share(d.Ratios.Cache), share(d.Ratios.Zone),
		d.SlowReads, d.Served.Errors, d.Served.Hung, waits)
}
