package nbd

import (
	"fmt"
	"net"
	"net/url"
)

// URI returns the NBD URI (doc/uri.md of the NBD project) by which a client on
// this host reaches the export called name on a listener with address addr,
// with secure over TLS only. A listener on all addresses is named by loopback.
func URI(addr net.Addr, name string, secure bool) (string, error) {
	u := url.URL{Scheme: "nbd"}
	if secure {
		u.Scheme = "nbds"
	}
	// A name's own slashes stay; escaping by hand keeps names that would
	// change if a URL library cleaned them.
	u.Path, u.RawPath = "/"+name, "/"+url.PathEscape(name)
	switch a := addr.(type) {
	case *net.UnixAddr:
		path := a.Name
		if len(path) > 0 && path[0] == '@' {
			path = "\x00" + path[1:]
		}
		u.Scheme += "+unix"
		return u.Scheme + "://" + u.EscapedPath() + "?socket=" + url.QueryEscape(path), nil
	case *net.TCPAddr:
		host := a.IP
		switch {
		case len(host) == 0 || host.Equal(net.IPv4zero):
			host = net.IPv4(127, 0, 0, 1)
		case host.Equal(net.IPv6unspecified):
			host = net.IPv6loopback
		}
		u.Host = (&net.TCPAddr{IP: host, Port: a.Port, Zone: a.Zone}).String()
		return u.Scheme + "://" + u.Host + u.EscapedPath(), nil
	}
	return "", fmt.Errorf("make NBD URI of %T %s: neither unix nor TCP", addr, addr)
}
