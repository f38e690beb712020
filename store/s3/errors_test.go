package s3

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store/s3/s3test"
)

// TestAdvice has a server refuse in every known way. Each error says what to do,
// and none has a secret, though the server repeats all that it was sent.
func TestAdvice(t *testing.T) {
	const token = "session-token-abcdef"
	f := newFake(t)
	t.Setenv("AWS_SESSION_TOKEN", token)
	for _, c := range []struct {
		code   string
		status int
		more   string
		want   string
	}{
		{"NoSuchBucket", 404, "", "there is no bucket bucket at http://127.0.0.1"},
		{"AccessDenied", 403, "", "the credentials do not allow this"},
		{"InvalidAccessKeyId", 403, "", "does not know these credentials"},
		{"SignatureDoesNotMatch", 403, "", "does not know these credentials"},
		{"ExpiredToken", 400, "", "the credentials have expired; renew them"},
		{"RequestTimeTooSkewed", 403, "", "clock is wrong, 1h0m"},
		{"AuthorizationHeaderMalformed", 400, "<Region>eu-central-1</Region>", "add region=eu-central-1"},
		{"PermanentRedirect", 301, "", "is not in region us-east-1"},
		{"SlowDown", 503, "", "the server is in trouble"},
		{"TooManyRequests", 429, "", "the server is in trouble"},
		{"Strange", 418, "", "Strange"},
	} {
		t.Run(c.code, func(t *testing.T) {
			f.refuse = func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
				w.Header().Set("Date", time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat))
				seen := strings.Join([]string{r.Header.Get("Authorization"), r.Header.Get("X-Amz-Security-Token"), testSecret}, " ")
				return answerError(w, r, c.status, c.code, "you sent "+seen, c.more)
			}
			short, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			_, err := Open(short, f.config(), false)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "bucket") {
				t.Fatalf("%v; want %q", err, c.want)
			}
			for _, secret := range []string{testSecret, token} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("has a secret: %v", err)
				}
			}
			var e *Error
			if !errors.As(err, &e) || e.Code != c.code || e.Status != c.status {
				t.Errorf("%+v", e)
			}
		})
	}
}

func TestUnreachable(t *testing.T) {
	f := newFake(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	l.Close()
	secure := httptest.NewTLSServer(f)
	defer secure.Close()
	secure.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	for address, want := range map[string]string{
		"http://" + nobody:            "cannot be reached",
		secure.URL:                    "ca=FILE",
		"https" + f.URL[len("http"):]: "does not speak TLS",
	} {
		c := f.config()
		c.Endpoint, err = url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		_, err := Open(ctx, c, false)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", address, err, want)
		}
	}
}

func TestOwnAuthority(t *testing.T) {
	f := newFake(t)
	secure := httptest.NewUnstartedServer(f)
	secure.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	secure.StartTLS()
	defer secure.Close()
	dir := t.TempDir()
	file := filepath.Join(dir, "ca.pem")
	block := &pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	o := open(t, "s3://bucket?endpoint="+secure.URL+"&ca="+file)
	chunktest.Fill(t, o.Generation(1))
	if err := os.WriteFile(file, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := f.config()
	for _, c.CAFile = range []string{file, filepath.Join(dir, "missing")} {
		if _, err := Open(ctx, c, false); err == nil || !strings.Contains(err.Error(), c.CAFile) {
			t.Errorf("%s: %v", c.CAFile, err)
		}
	}
}

// TestRefusals is about the real server.
func TestRefusals(t *testing.T) {
	server := s3test.Start(t)
	bucket := server.NewBucket(t)
	openURL := func(url string) error {
		c, err := ParseURL(url)
		if err != nil {
			t.Fatal(err)
		}
		o, err := Open(ctx, c, false)
		if err == nil {
			o.Close()
		}
		return err
	}
	if err := openURL(server.URL("no-such-bucket", "")); err == nil || !strings.Contains(err.Error(), "there is no bucket no-such-bucket") {
		t.Errorf("a bucket that is not there: %v", err)
	}
	if err := openURL(server.URL(bucket, "")); !errors.Is(err, origin.ErrNoStore) {
		t.Errorf("an empty bucket: %v; want ErrNoStore", err)
	}
	if err := openURL(server.URL(bucket, "", "region=eu-west-7")); err == nil || !strings.Contains(err.Error(), "region") {
		t.Errorf("another region: %v", err)
	}
	if err := openURL(server.URL(bucket, "", "anonymous=true")); err == nil || !strings.Contains(err.Error(), "not open to all") {
		t.Errorf("without credentials: %v", err)
	}
	t.Setenv("AWS_SECRET_ACCESS_KEY", "wrong-"+server.SecretKey)
	if err := openURL(server.URL(bucket, "")); err == nil || !strings.Contains(err.Error(), "does not know these credentials") || strings.Contains(err.Error(), server.SecretKey) {
		t.Errorf("a wrong secret: %v", err)
	}
	if err := os.WriteFile(filepath.Join(server.Dir, bucket, "foreign"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	server.Login(t)
	c, err := ParseURL(server.URL(bucket, ""))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(ctx, c, true); !errors.Is(err, origin.ErrNoStore) || !strings.Contains(err.Error(), "foreign") {
		t.Errorf("a bucket of something else: %v; want ErrNoStore", err)
	}
	// Below a prefix of its own it may be.
	open(t, server.URL(bucket, "own"))
}

func TestOtherVersion(t *testing.T) {
	f := newFake(t)
	f.objects["/bucket/version"] = []byte("rivulet store 9\n")
	for _, create := range []bool{true, false} {
		if _, err := Open(ctx, f.config(), create); !errors.Is(err, origin.ErrVersion) {
			t.Errorf("%v; want ErrVersion", err)
		}
	}
}

// TestRenewed has credentials expire while new ones are there already.
func TestRenewed(t *testing.T) {
	f := newFake(t)
	o := f.open(t)
	t.Setenv("AWS_SESSION_TOKEN", "renewed")
	f.refuse = func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
		return r.Header.Get("X-Amz-Security-Token") != "renewed" && answerError(w, r, 400, "ExpiredToken", "expired", "")
	}
	if err := o.SwapPointer(ctx, "p", nil, []byte("v")); err != nil {
		t.Error(err)
	}
}

func TestNoCredentials(t *testing.T) {
	f := newFake(t)
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	c := f.config()
	c.Profile = "none"
	if _, err := Open(ctx, c, false); !errors.Is(err, ErrNoCredentials) || !strings.Contains(err.Error(), "AWS_ACCESS_KEY_ID") {
		t.Errorf("%v; want ErrNoCredentials", err)
	}
}

// TestLog checks that warnings have no secret.
func TestLog(t *testing.T) {
	f := newFake(t)
	f.noConditions = true
	var log bytes.Buffer
	o := f.open(t, func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	if err := o.SwapPointer(ctx, "p", nil, []byte("v")); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "no conditional writes") || strings.Contains(log.String(), testSecret) {
		t.Errorf("log: %s", log.String())
	}
}

// TestClockSkew asks the real server by a clock that is a quarter of a century slow: that
// of a bubble of synctest.
func TestClockSkew(t *testing.T) {
	server := s3test.Start(t)
	c, err := ParseURL(server.URL(server.NewBucket(t), "p"))
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var conns []net.Conn
		c.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				conns = append(conns, conn)
			}
			return conn, err
		}
		defer func() { // what reads from them is in the bubble
			mu.Lock()
			defer mu.Unlock()
			for _, conn := range conns {
				_ = conn.Close()
			}
		}()
		o, err := Open(context.Background(), c, true)
		if err == nil {
			o.Close()
		}
		var e *Error
		if !errors.As(err, &e) || e.Code != "RequestTimeTooSkewed" || !strings.Contains(err.Error(), "clock is wrong") ||
			!strings.Contains(err.Error(), "behind the server") || !strings.Contains(err.Error(), "set it") || strings.Contains(err.Error(), server.SecretKey) {
			t.Errorf("by a wrong clock: %v; want what to do", err)
		}
	})
}
