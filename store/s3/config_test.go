package s3

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/store/s3/s3test"
)

func TestParseURL(t *testing.T) {
	c, err := ParseURL("s3://bucket/a/b/?endpoint=https://s3.example.com:9000&region=eu-1&path-style=true&ca=/etc/ca.pem&profile=p&strict=true&connections=7")
	if err != nil {
		t.Fatal(err)
	}
	if c.Bucket != "bucket" || c.Prefix != "a/b" || c.Endpoint.Host != "s3.example.com:9000" || c.Region != "eu-1" ||
		c.Style != PathStyle || c.CAFile != "/etc/ca.pem" || c.Profile != "p" || !c.Strict || c.Connections != 7 {
		t.Errorf("%+v", c)
	}
	for good, check := range map[string]func(c Config) bool{
		"s3://bucket":                                 func(c Config) bool { return c.Prefix == "" && c.Endpoint == nil && c.Style == AutoStyle },
		"s3://my.bucket-1/x?path-style=false":         func(c Config) bool { return c.Style == VirtualStyle },
		"s3://bucket?endpoint=http://127.0.0.1:1":     func(c Config) bool { return c.Endpoint.Scheme == "http" },
		"s3://bucket?endpoint=http://[::1]:1/":        func(c Config) bool { return c.key("version") == "version" },
		"s3://bucket?endpoint=http://h&insecure=true": func(c Config) bool { return c.Insecure },
		"s3://bucket/p?anonymous=true":                func(c Config) bool { return c.Anonymous && c.key("x") == "p/x" },
		"s3://bucket?endpoint=http%3A%2F%2Flocalhost": func(c Config) bool { return c.Endpoint.Host == "localhost" },
	} {
		if c, err := ParseURL(good); err != nil || !check(c) {
			t.Errorf("%s: %+v, %v", good, c, err)
		}
	}
}

func TestParseURLRefuses(t *testing.T) {
	for bad, want := range map[string]string{
		"":                       "want s3://",
		"s3:bucket":              "want s3://",
		"http://bucket":          "want s3://",
		"s3://":                  "bucket",
		"s3://Bucket":            "bucket",
		"s3://ab":                "bucket",
		"s3://bucket:80/x":       "bucket",
		"s3://key:hidden@bucket": "credentials come from",
		"s3://bucket#x":          "fragment",
		"s3://bucket/a//b":       "prefix",
		"s3://bucket/../b":       "prefix",
		"s3://bucket/%41%20b":    "prefix",
		"s3://bucket/" + strings.Repeat("x", 201):      "prefix",
		"s3://bucket?endpont=x":                        "not known",
		"s3://bucket?region=a&region=b":                "one value",
		"s3://bucket?region=":                          "one value",
		"s3://bucket?path-style=yes":                   "true or false",
		"s3://bucket?connections=0":                    "from 1 to",
		"s3://bucket?connections=9999":                 "from 1 to",
		"s3://bucket?endpoint=http://example.com":      "insecure=true",
		"s3://bucket?endpoint=ftp://h":                 "want https://",
		"s3://bucket?endpoint=https://":                "host",
		"s3://bucket?endpoint=https://h/path":          "path",
		"s3://bucket?endpoint=https://k:hidden@h":      "does not belong",
		"s3://bucket?endpoint=https://k:hidden%zz@h":   "NAME=VALUE",
		"s3://bucket?endpoint=https://k:hidden%25zz@h": "not an address",
		"s3://bucket?a=%zz":                            "NAME=VALUE",
	} {
		_, err := ParseURL(bad)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s: %v; want %q", bad, err, want)
		}
	}
}

func FuzzParseURL(f *testing.F) {
	f.Add("s3://bucket/prefix?endpoint=https://host:1&path-style=true&connections=3")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseURL(s)
		if err == nil && (c.check() != nil || strings.Contains(c.Prefix, "//")) {
			t.Fatalf("%q: %+v", s, c)
		}
	})
}

func TestRegion(t *testing.T) {
	t.Setenv("AWS_REGION", "")
	t.Setenv("AWS_DEFAULT_REGION", "")
	for _, want := range []string{"us-east-1", "second", "first"} {
		if got := (&Config{}).region(); got != want {
			t.Errorf("region %q, want %q", got, want)
		}
		if want == "us-east-1" {
			t.Setenv("AWS_DEFAULT_REGION", "second")
		} else {
			t.Setenv("AWS_REGION", "first")
		}
	}
	if got := (&Config{Region: "own"}).region(); got != "own" {
		t.Errorf("region %q", got)
	}
}

func TestCredentials(t *testing.T) {
	file := filepath.Join(t.TempDir(), "credentials")
	text := "[default]\naws_access_key_id = of-default\naws_secret_access_key = s1\n[p]\naws_access_key_id = of-p\naws_secret_access_key = s2\naws_session_token = t2\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &s3test.Server{AccessKey: "of-environment", SecretKey: "s0"}
	s.Login(t)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
	for profile, want := range map[string]string{"": "of-environment", "p": "of-p"} {
		v, err := newKeyring(profile).Retrieve()
		if err != nil || v.AccessKeyID != want {
			t.Errorf("profile %q: %s, %v; want %s", profile, v.AccessKeyID, err, want)
		}
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	k := newKeyring("")
	if v, err := k.Retrieve(); err != nil || v.AccessKeyID != "of-default" || k.IsExpired() {
		t.Errorf("without environment: %s, %v", v.AccessKeyID, err)
	}
	if !(&keyring{}).IsExpired() || !(&keyring{found: true, renew: time.Now().Add(-1)}).IsExpired() {
		t.Error("what was never found, or has expired, passes for good")
	}
	if left := time.Until(renewal(time.Now().Add(time.Hour))); left < 54*time.Minute || left > 55*time.Minute {
		t.Errorf("credentials of an hour are renewed after %v", left)
	}
	if got := k.clean("key s1 and\nmore" + strings.Repeat("x", 1000)); strings.Contains(got, "s1") || strings.Contains(got, "\n") || len(got) > maxText+10 {
		t.Errorf("cleaned: %q", got)
	}
	_, err := newKeyring("other").Retrieve()
	if err == nil || !strings.Contains(err.Error(), `profile "other"`) {
		t.Errorf("a profile that is not there: %v", err)
	}
}

// TestRole gets credentials from where a container's platform gives them out.
func TestRole(t *testing.T) {
	expires := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"AccessKeyId": "of-role", "SecretAccessKey": "s3", "Token": "t3", "Expiration": %q}`, expires)
	}))
	defer server.Close()
	(&s3test.Server{}).Login(t)
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", server.URL)
	k := newKeyring("")
	v, err := k.Retrieve()
	if err != nil || v.AccessKeyID != "of-role" || v.SessionToken != "t3" || k.IsExpired() || k.renew.IsZero() {
		t.Errorf("%s, renewed at %v, %v", v.AccessKeyID, k.renew, err)
	}
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "")
	if _, err := newKeyring("").Retrieve(); !errors.Is(err, ErrNoCredentials) {
		t.Errorf("nothing anywhere: %v; want ErrNoCredentials", err)
	}
}

// TestStyle looks at the addresses that requests go to.
func TestStyle(t *testing.T) {
	f := newFake(t)
	var host, path string
	f.refuse = func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
		host, path = r.Host, r.URL.Path
		return answerError(w, r, 404, "NoSuchKey", "no", "")
	}
	for _, c := range []struct {
		style              Style
		wantHost, wantPath string
	}{
		{AutoStyle, "s3.example.test", "/bucket/p/version"},
		{PathStyle, "s3.example.test", "/bucket/p/version"},
		{VirtualStyle, "bucket.s3.example.test", "/p/version"},
	} {
		cl, err := newClient(&Config{Bucket: "bucket", Prefix: "p", Style: c.style, Endpoint: &url.URL{Scheme: "http", Host: "s3.example.test"}})
		if err != nil {
			t.Fatal(err)
		}
		cl.connect.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, f.Listener.Addr().String())
		}
		if _, err := cl.head(ctx, cl.config.key("version")); !errors.Is(err, chunk.ErrNotFound) {
			t.Errorf("head: %v", err)
		}
		if host != c.wantHost || path != c.wantPath {
			t.Errorf("style %d: %s %s, want %s %s", c.style, host, path, c.wantHost, c.wantPath)
		}
		cl.connect.CloseIdleConnections()
	}
}
