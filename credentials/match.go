package credentials

import (
	"errors"
	"fmt"
	"net"
	"path"
	"strings"
)

// A pattern says which repositories a plugin, or one of its logins, is for. Stars stand
// for parts of names in the host, each within one label: "*.example.com" is not
// "a.b.example.com". The port must be the same, so that a pattern without one is of no other service of
// that host; and the path a prefix: as the kubelet has it.
type pattern struct {
	labels []string
	port   string
	path   string
	text   string
}

func parsePattern(text string) (pattern, error) {
	p := pattern{text: text}
	rest := strings.TrimPrefix(strings.TrimPrefix(text, "https://"), "http://")
	host, path, _ := strings.Cut(rest, "/")
	p.path = path
	var err error
	if p.labels, p.port, err = splitHost(host); err != nil {
		return p, fmt.Errorf("pattern %.80q: %w", text, err)
	}
	if strings.Contains(p.path, "*") || strings.Contains(p.port, "*") {
		return p, fmt.Errorf("pattern %.80q: has a star behind the host", text)
	}
	for _, label := range p.labels {
		if !matchable(label) {
			return p, fmt.Errorf("pattern %.80q: cannot be read", text)
		}
	}
	return p, nil
}

func matchable(label string) bool {
	_, err := path.Match(label, "")
	return err == nil
}

// splitHost returns the labels of a host's name, and its port.
func splitHost(host string) (labels []string, port string, err error) {
	name := host
	if inside, ok := strings.CutPrefix(host, "["); ok && strings.HasSuffix(inside, "]") {
		name = strings.TrimSuffix(inside, "]")
	} else if strings.Contains(host, ":") {
		if name, port, err = net.SplitHostPort(host); err != nil {
			return nil, "", errors.New("the host cannot be read")
		}
	}
	if name == "" {
		return nil, "", errors.New("has no host")
	}
	if strings.Contains(name, ":") { // an address, which has no labels
		return []string{name}, port, nil
	}
	return strings.Split(name, "."), port, nil
}

// matches reports whether a repository, HOST[:PORT]/PATH, is one that is meant.
func (p pattern) matches(repository string) bool {
	host, path, _ := strings.Cut(repository, "/")
	labels, port, err := splitHost(host)
	if err != nil || len(labels) != len(p.labels) || p.port != port || !strings.HasPrefix(path, p.path) {
		return false
	}
	for i, label := range labels {
		if !matchLabel(p.labels[i], label) {
			return false
		}
	}
	return true
}

func matchLabel(pattern, label string) bool {
	ok, err := path.Match(pattern, label)
	return err == nil && ok
}
