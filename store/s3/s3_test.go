package s3

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/origin/origintest"
	"github.com/rivuletfs/rivulet/store/s3/s3test"
)

var ctx = context.Background()

// open opens the origin of a URL, makes it if it is not there, and closes it at
// the end of the test.
func open(t testing.TB, url string) *Origin {
	t.Helper()
	c, err := ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	o, err := Open(ctx, c, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	return o
}

func TestOrigin(t *testing.T) {
	server := s3test.Start(t)
	origintest.TestOrigin(t, func(t *testing.T) origin.Origin {
		return open(t, server.URL(server.NewBucket(t), "a/b"))
	})
}

func TestRequests(t *testing.T) {
	server := s3test.Start(t)
	s := open(t, server.URL(server.NewBucket(t), "a/b")).Generation(1)
	origintest.TestRequests(t, s, chunktest.Fill(t, s))
}

// TestVirtualStyle runs the suite against a server that finds buckets by the host's
// name.
func TestVirtualStyle(t *testing.T) {
	if testing.Short() {
		t.Skip("the goroutines of TestOrigin again")
	}
	const domain = "s3.example.test"
	server := s3test.Start(t, "--virtual-domain", domain)
	_, port, err := net.SplitHostPort(server.Endpoint.Host)
	if err != nil {
		t.Fatal(err)
	}
	var dials atomic.Int64 // to the hosts of buckets
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		if bucket, ok := strings.CutSuffix(addr, "."+domain+":"+port); !ok || !strings.HasPrefix(bucket, "bucket-") {
			return nil, fmt.Errorf("dial %s: want a bucket's host", addr)
		}
		dials.Add(1)
		return (&net.Dialer{}).DialContext(ctx, network, server.Endpoint.Host)
	}
	others := http.DefaultTransport // of whoever is given a request
	t.Cleanup(func() { http.DefaultTransport = others })
	http.DefaultTransport = &http.Transport{DialContext: dial, DisableKeepAlives: true}
	origintest.TestOrigin(t, func(t *testing.T) origin.Origin {
		bucket := server.NewBucket(t)
		c, err := ParseURL(server.Via(domain+":"+port, bucket, "a/b", "path-style=false", "insecure=true"))
		if err != nil {
			t.Fatal(err)
		}
		c.dial = dial
		o, err := Open(ctx, c, true)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(o.Close)
		if _, err := os.Stat(filepath.Join(server.Dir, bucket, "a", "b", "version")); err != nil {
			t.Errorf("the server has not put it into the bucket: %v", err)
		}
		return o
	})
	if dials.Load() == 0 {
		t.Error("nobody has dialed a bucket's host")
	}
}

func TestTwoClients(t *testing.T) {
	server := s3test.Start(t)
	url := server.URL(server.NewBucket(t), "")
	origintest.TestPointerRace(t, open(t, url), open(t, url))
}

func BenchmarkSource(b *testing.B) {
	server := s3test.Start(b)
	chunktest.BenchmarkSource(b, open(b, server.URL(server.NewBucket(b), "")).generation(1))
}

// TestAnonymousRequest checks the plain addresses of buckets that are open to all.
func TestAnonymousRequest(t *testing.T) {
	id := chunktest.Absent
	key := "/p/generations/1/chunks/" + id.String()[:2] + "/" + id.String()
	for url, want := range map[string]string{
		"s3://bucket/p?anonymous=true&region=eu-west-1":                                          "https://bucket.s3.dualstack.eu-west-1.amazonaws.com" + key,
		"s3://my.bucket/p?anonymous=true&region=eu-west-1":                                       "https://s3.dualstack.eu-west-1.amazonaws.com/my.bucket" + key, // which no certificate has
		"s3://bucket/p?anonymous=true&region=eu-west-1&endpoint=https://host:1":                  "https://host:1/bucket" + key,
		"s3://bucket/p?anonymous=true&region=eu-west-1&endpoint=https://host:1&path-style=false": "https://bucket.host:1" + key,
	} {
		c, err := ParseURL(url)
		if err != nil {
			t.Fatal(err)
		}
		cl, err := newClient(&c)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := cl.presign(ctx, c.key("generations/1/chunks/"+id.String()[:2]+"/"+id.String())); got != want || err != nil {
			t.Errorf("%s: %s, %v; want %s", url, got, err, want)
		}
	}
}
