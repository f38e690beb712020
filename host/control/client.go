package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
	"time"

	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/internal/fdpass"
)

// ErrNoAgent says that no agent answers at a socket.
var ErrNoAgent = errors.New("no agent answers")

// A Client asks an agent. Any number of calls may run at once.
type Client struct {
	socket string
	http   *http.Client
}

// Dial returns a client of the agent that listens at socket. If nobody does, the
// error is ErrNoAgent.
func Dial(ctx context.Context, socket string) (*Client, error) {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err != nil {
			return nil, err
		}
		// Who listens in a shared folder could be anybody.
		if err := fdpass.CheckPeer(c.(*net.UnixConn)); err != nil {
			_ = c.Close()
			return nil, err
		}
		return c, nil
	}
	c, err := dial(ctx, "", "")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, errors.ErrUnsupported) {
		return nil, fmt.Errorf("%s: %w", socket, ErrNoAgent)
	}
	if err != nil {
		return nil, fmt.Errorf("agent at %s: %w", socket, err)
	}
	_ = c.Close()
	return &Client{socket, &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}, nil
}

// Attach attaches all of specs, or none.
func (c *Client) Attach(ctx context.Context, specs ...host.Spec) ([]host.Info, error) {
	var got attachments
	err := c.do(ctx, http.MethodPost, "/v1/attach", attachRequest{specs}, &got)
	return got.Attachments, err
}

// Find looks for a published image, as Host.Find does.
func (c *Client) Find(ctx context.Context, q host.Query) (host.Found, error) {
	var f host.Found
	err := c.do(ctx, http.MethodPost, "/v1/find", findRequest{q}, &f)
	return f, err
}

// Reach opens stores ahead of need, as Host.Reach does.
func (c *Client) Reach(ctx context.Context, stores ...string) error {
	return c.do(ctx, http.MethodPost, "/v1/reach", reachRequest{stores}, nil)
}

// List returns all attachments, the oldest first.
func (c *Client) List(ctx context.Context) ([]host.Info, error) {
	var got attachments
	err := c.do(ctx, http.MethodGet, "/v1/attachments", nil, &got)
	return got.Attachments, err
}

// Detach ends an attachment, as Host.Detach does with a context of that time.
func (c *Client) Detach(ctx context.Context, id string, force bool, wait time.Duration) error {
	q := url.Values{"wait": {strconv.FormatFloat(wait.Seconds(), 'f', -1, 64)}}
	if force {
		q.Set("force", "1")
	}
	return c.do(ctx, http.MethodDelete, "/v1/attachments/"+url.PathEscape(id)+"?"+q.Encode(), nil, nil)
}

// Wait returns when the attachment has ended, with an error if that was not on
// purpose; it does so across restarts of the agent.
func (c *Client) Wait(ctx context.Context, id string) error {
	for {
		err := c.do(ctx, http.MethodGet, "/v1/attachments/"+url.PathEscape(id)+"/wait", nil, nil)
		var said *Error
		if err == nil || errors.As(err, &said) && !errors.Is(err, host.ErrClosed) || ctx.Err() != nil {
			return err
		}
		select { // the agent has gone, and comes back
		case <-time.After(time.Second / 2):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Agent tells of the agent itself. One that is older than this question does not
// know it, which is an error.
func (c *Client) Agent(ctx context.Context) (Agent, error) {
	var a Agent
	err := c.do(ctx, http.MethodGet, "/v1/agent", nil, &a)
	return a, err
}

// Stores says how the agent's stores answer; it takes some seconds if one does not.
func (c *Client) Stores(ctx context.Context) ([]host.StoreHealth, error) {
	var got stores
	err := c.do(ctx, http.MethodGet, "/v1/stores", nil, &got)
	return got.Stores, err
}

// Slow tells of an attachment's slow reads.
func (c *Client) Slow(ctx context.Context, id string) (host.Slow, error) {
	var s host.Slow
	err := c.do(ctx, http.MethodGet, "/v1/attachments/"+url.PathEscape(id)+"/slow", nil, &s)
	return s, err
}

// Mark ends the start of an attachment's disk; see Host.Mark.
func (c *Client) Mark(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodPost, "/v1/attachments/"+url.PathEscape(id)+"/mark", struct{}{}, nil)
}

// PauseFill holds the fill of an attachment's disk up, or has it go on; see
// Host.PauseFill.
func (c *Client) PauseFill(ctx context.Context, id string, pause bool) error {
	return c.do(ctx, http.MethodPost, "/v1/attachments/"+url.PathEscape(id)+"/fill", fillRequest{pause}, nil)
}

// Upgrade has the agent hand everything to a new process of its program.
func (c *Client) Upgrade(ctx context.Context) (Upgraded, error) {
	var u Upgraded
	err := c.do(ctx, http.MethodPost, "/v1/upgrade", struct{}{}, &u)
	return u, err
}

func (c *Client) do(ctx context.Context, method, path string, body, into any) error {
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		r = bytes.NewReader(b)
	}
	resp, err := c.ask(ctx, method, path, r, nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if into == nil {
		return nil
	}
	b, err := readAnswer(resp)
	if err != nil {
		return fmt.Errorf("agent at %s: %w", c.socket, err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("agent at %s: answer: %w", c.socket, err)
	}
	return nil
}

// ask sends a request and returns the answer, which the caller closes, or the error
// that it is.
func (c *Client) ask(ctx context.Context, method, path string, body io.Reader, headers http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, body)
	if err != nil {
		return nil, err
	}
	if headers != nil {
		req.Header = headers
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("agent at %s: %w", c.socket, err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := readAnswer(resp)
	if err != nil {
		return nil, fmt.Errorf("agent at %s: %w", c.socket, err)
	}
	e := &Error{}
	if json.Unmarshal(b, e) != nil || e.Text == "" {
		return nil, fmt.Errorf("agent at %s: %s", c.socket, resp.Status)
	}
	if e.Kind == specKind {
		return nil, host.SpecErrorf("%w", e)
	}
	return nil, e
}

// readAnswer reads an answer that is one JSON value.
func readAnswer(resp *http.Response) ([]byte, error) {
	return io.ReadAll(io.LimitReader(resp.Body, 64<<20))
}
