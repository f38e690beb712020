package s3

import (
	"context"
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
