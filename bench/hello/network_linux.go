package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Addresses. The registry is in one namespace, behind the link; zone cache and hosts are
// in others, on a bridge without delay, as machines of one zone are.
const (
	serverAddress = "10.91.0.1"
	edgeAddress   = "10.91.0.2"
	zoneAddress   = "10.91.1.1"
	linkDevice    = "link0"
)

// A link is what lies between the registry and the hosts.
type link struct {
	Name  string
	Delay time.Duration // there and back
	Rate  int64         // bits a second; 0: as fast as this machine is
}

// Links are all that are measured.
var links = []link{
	{Name: "loopback"},
	{Name: "1gbit-1ms", Delay: time.Millisecond, Rate: 1e9},
	{Name: "100mbit-30ms", Delay: 30 * time.Millisecond, Rate: 100e6},
}

// A network is the namespaces of one run.
type network struct {
	prefix string // of the namespaces' names
	self   string // this program
	delay  *process
	link   link
}

// Namespaces of a network.
const (
	server = "server"
	edge   = "edge"
	host1  = "host1"
	host2  = "host2"
)

func namespaceFile(ns string) string { return "/run/netns/" + ns }

func (n *network) namespace(role string) string { return n.prefix + role }

// inside returns a command that runs in a namespace. Not by "ip netns exec", which hides
// the control groups.
func (n *network) inside(ctx context.Context, role string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + namespaceFile(n.namespace(role))}, args...)...)
}

// newNetwork makes the namespaces, without a link.
func newNetwork(ctx context.Context, self string) (*network, error) {
	n := &network{prefix: fmt.Sprintf("hello%d-", os.Getpid()), self: self}
	for _, role := range []string{server, edge, host1, host2} {
		if err := command(ctx, "ip", "netns", "add", n.namespace(role)); err != nil {
			n.close()
			return nil, err
		}
	}
	e := n.namespace(edge)
	setup := [][]string{
		{"-n", n.namespace(server), "link", "set", "lo", "up"},
		{"-n", e, "link", "set", "lo", "up"},
		{"-n", e, "link", "add", "lan", "type", "bridge"},
		{"-n", e, "addr", "add", zoneAddress + "/24", "dev", "lan"},
		{"-n", e, "link", "set", "lan", "up"},
	}
	for i, role := range []string{host1, host2} {
		h := n.namespace(role)
		setup = append(setup, [][]string{
			{"-n", e, "link", "add", role, "type", "veth", "peer", "name", "eth0", "netns", h},
			{"-n", e, "link", "set", role, "master", "lan", "up"},
			{"-n", h, "link", "set", "lo", "up"},
			{"-n", h, "addr", "add", fmt.Sprintf("10.91.1.%d/24", 2+i), "dev", "eth0"},
			{"-n", h, "link", "set", "eth0", "up"},
			{"-n", h, "route", "add", "default", "via", zoneAddress},
		}...)
	}
	for _, args := range setup {
		if err := command(ctx, "ip", args...); err != nil {
			n.close()
			return nil, err
		}
	}
	if err := run(n.inside(ctx, edge, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

// connect lays a link, in the place of the one before.
func (n *network) connect(ctx context.Context, l link) error {
	n.disconnect()
	s, e := n.namespace(server), n.namespace(edge)
	if l.Delay == 0 {
		if err := command(ctx, "ip", "-n", s, "link", "add", linkDevice, "type", "veth", "peer", "name", linkDevice, "netns", e); err != nil {
			return err
		}
	} else {
		d, err := begin(n.inside(context.WithoutCancel(ctx), server, n.self, "delay", "-a", s, "-b", e, "-device", linkDevice, "-delay", (l.Delay/2).String()), os.DevNull)
		if err != nil {
			return err
		}
		n.delay = d
		if err := await(ctx, 10*time.Second, func() error {
			return run(exec.CommandContext(ctx, "ip", "-n", e, "link", "show", linkDevice))
		}); err != nil {
			return fmt.Errorf("link %s: %w", l.Name, err)
		}
	}
	for _, end := range []struct{ ns, address string }{{s, serverAddress}, {e, edgeAddress}} {
		if err := command(ctx, "ip", "-n", end.ns, "addr", "add", end.address+"/24", "dev", linkDevice); err != nil {
			return err
		}
		if err := command(ctx, "ip", "-n", end.ns, "link", "set", linkDevice, "mtu", "1500", "txqueuelen", "10000", "up"); err != nil {
			return err
		}
		if l.Rate == 0 {
			continue
		}
		// The burst is what a timer's tick and one segment of TCP need.
		burst := max(l.Rate/8/250, 70_000)
		if err := command(ctx, "tc", "-n", end.ns, "qdisc", "add", "dev", linkDevice, "root", "tbf",
			"rate", fmt.Sprint(l.Rate), "burst", fmt.Sprint(burst), "latency", "50ms"); err != nil {
			return err
		}
	}
	n.link = l
	return command(ctx, "ip", "-n", s, "route", "add", "10.91.1.0/24", "via", edgeAddress)
}

func (n *network) disconnect() {
	if n.delay != nil {
		n.delay.stop()
		n.delay = nil
		return // its devices went with it
	}
	_ = command(context.Background(), "ip", "-n", n.namespace(server), "link", "del", linkDevice) // there may be none
}

// forget has both ends of connections forget what they know of the path, which would spare
// later ones the slow start.
func (n *network) forget(ctx context.Context) {
	for _, role := range []string{server, host1, host2} {
		_ = run(n.inside(ctx, role, "ip", "tcp_metrics", "flush", "all")) // a kernel may keep none
	}
}

// A traffic is what has crossed the link since it was laid, in bytes.
type traffic struct{ Down, Up int64 }

func (n *network) traffic(ctx context.Context) (t traffic, err error) {
	out, err := output(exec.CommandContext(ctx, "ip", "-j", "-s", "-n", n.namespace(server), "link", "show", "dev", linkDevice))
	if err != nil {
		return t, err
	}
	var devices []struct {
		Stats struct{ Rx, Tx struct{ Bytes int64 } } `json:"stats64"`
	}
	if err := json.Unmarshal(out, &devices); err != nil || len(devices) != 1 {
		return t, fmt.Errorf("counters of %s: %q: %w", linkDevice, strings.TrimSpace(string(out)), err)
	}
	return traffic{Down: devices[0].Stats.Tx.Bytes, Up: devices[0].Stats.Rx.Bytes}, nil
}

func (n *network) close() {
	n.disconnect()
	for _, role := range []string{server, edge, host1, host2} {
		_ = command(context.Background(), "ip", "netns", "del", n.namespace(role)) // what could be made
	}
}
