package nbdclient

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/rivuletfs/rivulet/frontend/nbd/internal/wire"
)

// An Address is where an export is to be had: what an NBD URI says (doc/uri.md
// of the NBD project).
type Address struct {
	Network string // "unix" or "tcp"
	Addr    string // as net.Dial takes it
	Export  string
	TLS     bool
}

// ParseURI reads an NBD URI with scheme nbd, nbds, nbd+unix or nbds+unix.
func ParseURI(uri string) (Address, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return Address{}, fmt.Errorf("parse NBD URI: %w", err)
	}
	a, err := fromURL(u)
	if err != nil {
		return Address{}, fmt.Errorf("parse NBD URI %q: %w", u.Redacted(), err)
	}
	return a, nil
}

func fromURL(u *url.URL) (Address, error) {
	a := Address{Export: strings.TrimPrefix(u.Path, "/")}
	if err := wire.CheckName(a.Export); err != nil {
		return Address{}, err
	}
	switch u.Scheme {
	case "nbd", "nbds":
		port := u.Port()
		if port == "" {
			port = "10809"
		}
		if u.Hostname() == "" {
			return Address{}, errors.New("no host")
		}
		a.Network, a.Addr = "tcp", net.JoinHostPort(u.Hostname(), port)
	case "nbd+unix", "nbds+unix":
		a.Network, a.Addr = "unix", u.Query().Get("socket")
		if a.Addr == "" {
			return Address{}, errors.New("no socket parameter")
		}
		if a.Addr[0] == 0 {
			a.Addr = "@" + a.Addr[1:] // the abstract namespace, as package net writes it
		}
	default:
		return Address{}, errors.New("scheme is not NBD's")
	}
	a.TLS = strings.HasPrefix(u.Scheme, "nbds")
	return a, nil
}
