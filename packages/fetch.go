package packages

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

const (
	maxWheelBytes = 8 << 30
	fetchAttempts = 3
	fetchPause    = 500 * time.Millisecond // after the first failure, then twice as long
)

// patience is for how long a server may send nothing.
var patience = time.Minute

var client = &http.Client{}

var errSilent = errors.New("the server sends nothing any more")

// fetch returns the file with that digest, a SHA-256 or SHA-512 in hexadecimal, which is
// downloaded once for all processes. login, if not nil, returns what to log in to a host with.
func (c *Cache) fetch(ctx context.Context, from, name, sum string, login func(host string) *url.Userinfo) (string, error) {
	final := c.path("files", sum, name)
	defer c.used(fileKind, sum)
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	unlock, err := c.lock(ctx, "file-"+sum)
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	if err := os.MkdirAll(filepath.Dir(final), 0o755); err != nil {
		return "", err
	}
	made, err := fresh(final)
	if err != nil {
		return "", err
	}
	for attempt := range fetchAttempts {
		var again bool
		if again, err = download(ctx, from, made, sum, login); err == nil {
			c.grew()
			return final, os.Rename(made, final)
		}
		_ = os.Remove(made)
		if !again || ctx.Err() != nil {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(fetchPause << attempt):
		}
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	return "", fmt.Errorf("download %s: %w", name, err)
}

// download writes what is at from to the file to. again says that another attempt may
// succeed.
func download(ctx context.Context, from, to, sum string, login func(host string) *url.Userinfo) (again bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(patience, func() { cancel(errSilent) })
	defer silence.Stop()
	defer func() {
		if err != nil && context.Cause(ctx) == errSilent {
			again, err = true, errSilent
		}
	}()
	body, again, err := open(ctx, from, login)
	if err != nil {
		return again, err
	}
	defer func() { _ = body.Close() }()
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return false, err
	}
	h, name := sha256.New(), "SHA-256"
	if len(sum) == hex.EncodedLen(sha512.Size) {
		h, name = sha512.New(), "SHA-512"
	}
	heard := writerFunc(func(p []byte) (int, error) { silence.Reset(patience); return len(p), nil })
	n, err := io.Copy(io.MultiWriter(heard, f, h), io.LimitReader(body, maxWheelBytes+1))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return true, err
	}
	if n > maxWheelBytes {
		return false, fmt.Errorf("more than %d bytes", int64(maxWheelBytes))
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != sum {
		return false, fmt.Errorf("its %s is %s, and the lock says %s", name, got, sum)
	}
	return false, nil
}

type writerFunc func(p []byte) (int, error)

func (w writerFunc) Write(p []byte) (int, error) { return w(p) }

func open(ctx context.Context, from string, login func(host string) *url.Userinfo) (body io.ReadCloser, again bool, err error) {
	u, err := url.Parse(from)
	if err != nil {
		return nil, false, err
	}
	switch u.Scheme {
	case "file":
		body, err = os.Open(u.Path)
		return body, false, err
	case "http", "https":
	default:
		return nil, false, fmt.Errorf("address of scheme %.20q: https, http and file are supported", u.Scheme)
	}
	u.Fragment = ""
	if u.User == nil && login != nil {
		u.User = login(u.Host)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, false, err
	}
	res, err := client.Do(req)
	if err != nil {
		var where *url.Error
		if errors.As(err, &where) {
			err = where.Err // the address may have a password in it
		}
		return nil, true, err
	}
	if res.StatusCode != http.StatusOK {
		_ = res.Body.Close()
		return nil, res.StatusCode >= 500 || res.StatusCode == http.StatusTooManyRequests, fmt.Errorf("the index answers %s", res.Status)
	}
	return res.Body, false, nil
}
