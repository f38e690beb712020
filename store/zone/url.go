package zone

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/rivuletfs/rivulet/store/zone/internal/wire"
)

// Environment variables with what nodes are logged in to with, where their
// addresses do not say.
const (
	UserVariable     = "RIVULET_ZONE_USER"
	PasswordVariable = "RIVULET_ZONE_PASSWORD"
)

// ParseURL reads a zone as commands take it: addresses of nodes as [Config] has
// them, separated by commas, and after a question mark what is not as usual:
//
//	redis://a:6379,redis://b:6379,c?scheme=4of5&timeout=100ms
//
// A node without a scheme has that of the node before it. The parameters are
//
//	scheme       KofN, replicas or whole
//	hedge        share of reads that may be hedged (replicas)
//	timeout      of a request to a node, such as 100ms
//	connections  to a node
//	ca           file of certificates
//
// User and password are taken from the environment where an address has none. No
// error has a password in it.
func ParseURL(address string) (Config, error) {
	c := Config{User: os.Getenv(UserVariable), Password: os.Getenv(PasswordVariable)}
	list, query, _ := strings.Cut(address, "?")
	scheme := ""
	for i, node := range strings.Split(list, ",") {
		head, _, ok := strings.Cut(node, "://")
		switch {
		case ok:
			scheme = head
		case scheme == "":
			return Config{}, fmt.Errorf("zone: node %d has no scheme: want redis://, valkey:// or memcached://", i+1)
		default:
			node = scheme + "://" + node
		}
		if _, err := parseNode(node); err != nil {
			return Config{}, fmt.Errorf("zone: node %d: %w", i+1, err)
		}
		c.Nodes = append(c.Nodes, node)
	}
	if err := c.parseQuery(query); err != nil {
		return Config{}, fmt.Errorf("zone: %w", err)
	}
	_, _, err := c.withDefaults()
	return c, err
}

func (c *Config) parseQuery(query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return errors.New("the part after ? is malformed")
	}
	var hedge float64
	for name, list := range values {
		value := list[0]
		if len(list) > 1 {
			return fmt.Errorf("%s is there twice", name)
		}
		switch name {
		case "scheme":
			c.Scheme, err = ParseScheme(value)
		case "hedge":
			hedge, err = strconv.ParseFloat(value, 64)
		case "timeout":
			c.Timeout, err = time.ParseDuration(value)
		case "connections":
			c.Connections, err = strconv.Atoi(value)
		case "ca":
			c.CAFile = value
		default:
			return fmt.Errorf("%s is unknown: want scheme, hedge, timeout, connections or ca", name)
		}
		if err != nil {
			return fmt.Errorf("%s=%s: %w", name, value, err)
		}
	}
	if values.Has("hedge") {
		r, ok := c.Scheme.(Replicas)
		if !ok {
			return errors.New("hedge is for scheme=replicas")
		}
		r.Hedge = hedge
		c.Scheme = r
	}
	return nil
}

// ParseScheme reads KofN (such as 4of5), replicas (two of them) or whole.
func ParseScheme(s string) (Scheme, error) {
	switch s {
	case "whole":
		return Whole{}, nil
	case "replicas":
		return Replicas{}, nil
	}
	k, n, ok := strings.Cut(s, "of")
	c := Coded{}
	var errK, errN error
	c.K, errK = strconv.Atoi(k)
	c.N, errN = strconv.Atoi(n)
	if !ok || errK != nil || errN != nil {
		return nil, errors.New("want KofN (such as 4of5), replicas or whole")
	}
	return c, c.plan().check()
}

// An endpoint is an address of a node, taken apart.
type endpoint struct {
	name  string // HOST:PORT, which decides what lies there
	tls   bool
	open  func(net.Conn, wire.Login) (wire.Conn, error)
	login wire.Login
}

// maxDatabase is the highest number of a Redis database that is accepted.
const maxDatabase = 1<<16 - 1

// parseNode takes an address apart. Its errors do not quote what may have a
// password in it.
func parseNode(address string) (endpoint, error) {
	u, err := url.Parse(address)
	if err != nil {
		return endpoint{}, errors.New("not an address: want SCHEME://[USER:PASSWORD@]HOST[:PORT], with % for special characters")
	}
	e := endpoint{open: wire.OpenRedis}
	port, databases := "6379", true
	switch u.Scheme {
	case "redis", "valkey":
	case "rediss", "valkeys":
		e.tls = true
	case "memcached", "memcacheds":
		e.tls = u.Scheme == "memcacheds"
		e.open, port, databases = wire.OpenMemcached, "11211", false
	default:
		return endpoint{}, fmt.Errorf("scheme %q: want redis, rediss, valkey, valkeys, memcached or memcacheds", u.Scheme)
	}
	if u.Hostname() == "" || u.Opaque != "" || u.Fragment != "" || u.RawQuery != "" {
		return endpoint{}, errors.New("not an address: want SCHEME://[USER:PASSWORD@]HOST[:PORT]")
	}
	if u.Port() != "" {
		port = u.Port()
	}
	e.name = net.JoinHostPort(strings.ToLower(u.Hostname()), port)
	e.login.User = u.User.Username()
	e.login.Password, _ = u.User.Password()
	if path := strings.TrimPrefix(u.Path, "/"); path != "" {
		e.login.Database, err = strconv.Atoi(path)
		if err != nil || e.login.Database < 0 || e.login.Database > maxDatabase || !databases {
			return endpoint{}, fmt.Errorf("%s: path %q: want the number of a Redis database, or nothing", e.name, u.Path)
		}
	}
	return e, nil
}
