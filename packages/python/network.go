package python

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rivuletfs/rivulet/packages/gate"
	"github.com/rivuletfs/rivulet/packages/sandbox"
)

const gateAt = "/run/rivulet/gate"

// filesOf are hosts of well-known indexes, and where the files lie that they lead to.
var filesOf = map[string]string{
	"pypi.org:443":             "files.pythonhosted.org:443",
	"test.pypi.org:443":        "test-files.pythonhosted.org:443",
	"download.pytorch.org:443": "download-r2.pytorch.org:443",
}

const defaultHost = "pypi.org:443"

// defaultIndex are the variables that have pip or uv ask another index than the default.
var defaultIndex = []string{"PIP_INDEX_URL", "PIP_NO_INDEX", "UV_DEFAULT_INDEX"}

// A network is what a resolver's sandbox has of this machine's. nil is none.
type network struct {
	gate *gate.Gate
	dir  string // of its socket
}

// network opens the way to the indexes that variables name, and to what texts have addresses of.
func (r *Resolver) network(temp string, env []string, texts ...string) (*network, error) {
	hosts := gate.HostsIn(append(slices.Clone(env), texts...)...)
	if !slices.ContainsFunc(env, func(v string) bool { name, _, _ := strings.Cut(v, "="); return slices.Contains(defaultIndex, name) }) {
		hosts = append(hosts, defaultHost)
	}
	for _, h := range hosts {
		if files := filesOf[h]; files != "" {
			hosts = append(hosts, files)
		}
	}
	for _, h := range r.Hosts {
		if _, _, err := net.SplitHostPort(h); err != nil {
			h = net.JoinHostPort(strings.Trim(h, "[]"), "443")
		}
		hosts = append(hosts, strings.ToLower(h))
	}
	var proxy *url.URL
	if r.proxy != "" {
		address := r.proxy
		if !strings.Contains(address, "://") {
			address = "http://" + address
		}
		var err error
		if proxy, err = url.Parse(address); err != nil {
			return nil, errors.New("pip's setting of a proxy is no address") // it may have a password
		}
	}
	n := &network{dir: filepath.Join(temp, "gate")}
	err := errors.Join(os.Mkdir(n.dir, 0o755), os.Chmod(n.dir, 0o755)) // the sandbox is another user
	if err == nil {
		n.gate, err = gate.Open(n.dir, hosts, proxy)
	}
	if err != nil {
		return nil, fmt.Errorf("open a way to the index: %w", err)
	}
	return n, nil
}

// run runs what a Spec says, with this network alone.
func (n *network) run(ctx context.Context, s sandbox.Spec) error {
	if n != nil {
		s.Binds = append(s.Binds, sandbox.Bind{Source: n.dir, Dest: gateAt})
	}
	return sandbox.Run(ctx, s)
}

// script returns a program of Python that has this network.
func (n *network) script(program string) string {
	if n == nil {
		return program
	}
	return relayScript + "\n\n" + program
}

// told adds to what a program failed with which hosts it was not let to.
func (n *network) told(err error) error {
	refused := n.gate.Refused()
	if err == nil || len(refused) == 0 {
		return err
	}
	return fmt.Errorf("%w; it was not let to %s, which is no index's: RIVULET_PACKAGES_HOSTS names further hosts", err, strings.Join(refused, ", "))
}

func (n *network) close() error { return n.gate.Close() }
