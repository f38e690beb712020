package s3

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store/internal/link"
)

// A Config says where an origin is and how it is spoken to.
type Config struct {
	Bucket   string
	Prefix   string   // of all keys, without slashes at its ends; "" for the whole bucket
	Endpoint *url.URL // of the server, http or https; nil: Amazon's of the region
	Region   string   // "": $AWS_REGION, $AWS_DEFAULT_REGION, else us-east-1
	Style    Style    // of addresses
	CAFile   string   // authorities trusted besides the system's, PEM; "": none
	Profile  string   // of the shared configuration and credentials files; "": the usual chain
	// Anonymous sends no credentials.
	Anonymous bool
	// Insecure allows plain HTTP to other machines than this one.
	Insecure bool
	// Strict refuses to change pointers where the server has no conditional
	// writes, instead of risking that one of two changes at once is lost.
	Strict bool
	// Connections is how many requests run at once; 0: link.Connections.
	Connections int
	// Ahead names pointers of the origin that are read while it is found out
	// whether there is one: see origin.Ahead.
	Ahead []string
	// AheadIn names pointers of generations that are read then too.
	AheadIn map[origin.GenerationID][]string
	// Logger is told what somebody should know; nil: nobody is told.
	Logger *slog.Logger

	// dial connects to servers that no resolver knows, in tests; nil: as usual.
	dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// A Style is where the bucket's name stands in an address.
type Style int

const (
	AutoStyle    Style = iota // in the host for Amazon, else in the path
	PathStyle                 // https://HOST/BUCKET/KEY
	VirtualStyle              // https://BUCKET.HOST/KEY
)

// ParseURL reads s3://BUCKET[/PREFIX][?NAME=VALUE&…], with the names endpoint,
// region, path-style, ca, profile, anonymous, insecure, strict and connections.
// An unknown name, or one that comes twice, is an error. Credentials have no
// place in it.
func ParseURL(s string) (Config, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "s3" || u.Opaque != "" {
		return Config{}, errors.New("want s3://BUCKET/PREFIX?endpoint=https://HOST")
	}
	if u.User != nil || u.Fragment != "" {
		return Config{}, errors.New("has a user, a password or a fragment: credentials come from the environment or a profile")
	}
	c := Config{Bucket: u.Host, Prefix: strings.Trim(u.Path, "/")}
	path := false
	err = link.Parameters(u.RawQuery, map[string]func(string) error{
		"endpoint": func(v string) (err error) {
			if c.Endpoint, err = url.Parse(v); err != nil {
				return errors.New("not an address") // url's error would repeat it, with what may be secret in it
			}
			return nil
		},
		"region":  link.Text(&c.Region),
		"ca":      link.Text(&c.CAFile),
		"profile": link.Text(&c.Profile),
		"path-style": func(v string) error {
			err := link.Bool(&path)(v)
			c.Style = VirtualStyle
			if path {
				c.Style = PathStyle
			}
			return err
		},
		"anonymous":   link.Bool(&c.Anonymous),
		"insecure":    link.Bool(&c.Insecure),
		"strict":      link.Bool(&c.Strict),
		"connections": link.Count(&c.Connections),
	})
	if err != nil {
		return Config{}, err
	}
	return c, c.check()
}

// maxPrefix is the length of the longest prefix, so that every key has a place
// in the 1024 bytes that S3 allows.
const maxPrefix = 200

func (c *Config) check() error {
	ok := len(c.Bucket) >= 3 && len(c.Bucket) <= 63
	for i := range len(c.Bucket) {
		b := c.Bucket[i]
		ok = ok && (b >= 'a' && b <= 'z' || b >= '0' && b <= '9' || b == '-' || b == '.')
	}
	if !ok {
		return fmt.Errorf("bucket %q: want 3 to 63 lower-case letters, digits, '-' and '.'", c.Bucket)
	}
	ok = len(c.Prefix) <= maxPrefix
	for part := range strings.SplitSeq(c.Prefix, "/") {
		ok = ok && (part != "" || c.Prefix == "") && part != "." && part != ".."
	}
	for i := range len(c.Prefix) {
		ok = ok && c.Prefix[i] > ' ' && c.Prefix[i] <= '~' && c.Prefix[i] != '\\'
	}
	if !ok {
		return fmt.Errorf("prefix %q: want up to %d bytes of visible ASCII, in parts between single slashes", c.Prefix, maxPrefix)
	}
	if c.Endpoint == nil {
		return nil
	}
	if strings.Trim(c.Endpoint.Path, "/") != "" {
		return errors.New("endpoint: has a path; the bucket and a prefix stand in s3://BUCKET/PREFIX")
	}
	if err := link.CheckURL(c.Endpoint, c.Insecure); err != nil {
		return fmt.Errorf("endpoint: %w", err)
	}
	return nil
}

// region returns the region to sign for.
func (c *Config) region() string {
	regions := []string{c.Region, os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION"), "us-east-1"}
	return regions[slices.IndexFunc(regions, func(r string) bool { return r != "" })]
}

// key returns the key of a place of the origin.
func (c *Config) key(place string) string {
	if c.Prefix == "" {
		return place
	}
	return c.Prefix + "/" + place
}
