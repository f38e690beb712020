package origin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"

	"github.com/rivuletfs/rivulet/chunk"
)

// ErrNoRequest is returned (wrapped) by a store whose chunks are not had by
// HTTP: one in a directory or in memory.
var ErrNoRequest = errors.New("this place answers no HTTP requests")

// A Request is an HTTP GET that another process can send for a chunk: it needs
// no credentials beside it. It is a secret as long as it is good, which is
// minutes, and so shows only its host when it is printed.
type Request struct {
	URL    string      // http or https
	Header http.Header // credentials and the like; not Range; nil: none
	Offset int64       // where the chunk begins in what URL names, in bytes
	Length int64       // stored bytes of the chunk; 0: all of what URL names is the chunk
}

// A Requester makes requests for chunks.
type Requester interface {
	// Request returns the request by which chunk id can be had now. It says
	// nothing of whether the chunk is there, and as a rule asks nobody. The error
	// is ErrNoRequest where there are no requests. The caller owns the result.
	Request(ctx context.Context, id chunk.ID) (Request, error)
}

// hidden returns what may be shown of r.
func (r Request) hidden() string {
	host := "?"
	if u, err := url.Parse(r.URL); err == nil {
		host = u.Host
	}
	return fmt.Sprintf("request to %s, %d bytes at %d", host, r.Length, r.Offset)
}

// String shows the host and the range alone.
func (r Request) String() string { return r.hidden() }

// Format shows the host and the range alone, whatever the verb.
func (r Request) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, r.hidden()) }

// LogValue implements [slog.LogValuer].
func (r Request) LogValue() slog.Value { return slog.StringValue(r.hidden()) }

// MarshalText shows the host and the range alone.
func (r Request) MarshalText() ([]byte, error) { return []byte(r.hidden()), nil }
