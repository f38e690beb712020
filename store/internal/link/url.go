package link

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// CheckURL reports, by a nil error, whether u may be a server's: https, or http
// to this machine or if plain is allowed; without user, query and fragment.
func CheckURL(u *url.URL, plain bool) error {
	switch {
	case u.User != nil:
		return errors.New("a user or password does not belong into an address")
	case u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("address %q: want https://HOST", u.Redacted())
	case u.Host == "" || u.Opaque != "":
		return fmt.Errorf("address %q: the host is missing", u)
	case u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("address %q: has a query or a fragment", u)
	case u.Scheme == "http" && !plain && !loopback(u.Hostname()):
		return fmt.Errorf("address %q: whoever is on the way could read and change what is sent; use https, or add insecure=true", u)
	}
	return nil
}

func loopback(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

// maxConnections is what a user may set.
const maxConnections = 1024

// Parameters reads the query of a store's address: each value goes to the
// function of its name. A name that is not known, comes twice or has no value
// is an error.
func Parameters(query string, known map[string]func(value string) error) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return errors.New("what follows ? is not NAME=VALUE&NAME=VALUE")
	}
	for name, v := range values {
		set, ok := known[name]
		if !ok {
			return fmt.Errorf("parameter %.40q is not known", name)
		}
		if len(v) > 1 || v[0] == "" {
			return fmt.Errorf("parameter %s: want one value", name)
		}
		if err := set(v[0]); err != nil {
			return fmt.Errorf("parameter %s: %w", name, err)
		}
	}
	return nil
}

// Text returns a function for [Parameters] that stores the value as it is.
func Text(to *string) func(string) error {
	return func(v string) error { *to = v; return nil }
}

// Bool returns a function for [Parameters] that takes true and false.
func Bool(to *bool) func(string) error {
	return func(v string) error {
		if v != "true" && v != "false" {
			return errors.New("want true or false")
		}
		*to = v == "true"
		return nil
	}
}

// Count returns a function for [Parameters] that takes a number of connections.
func Count(to *int) func(string) error {
	return func(v string) error {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > maxConnections {
			return fmt.Errorf("want a number from 1 to %d", maxConnections)
		}
		*to = n
		return nil
	}
}
