package credentials

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/rivuletfs/rivulet/internal/fdpass"
)

// SocketName is the usual name of a socket in the runtime folder.
const SocketName = "logins.sock"

const (
	// maxRequest bounds what is asked over the socket, in bytes.
	maxRequest = 8 << 10
	// clientTime bounds a question: a plugin may have to be run for it.
	clientTime  = pluginTime + 10*time.Second
	loginPath   = "/v1/login"
	headerTime  = 5 * time.Second
	socketAgent = "http://logins"
)

type loginRequest struct {
	Repository string `json:"repository"`
}

// Serve answers on a unix socket, for Clients of this user, until ctx ends: they get every login
// that k has. It closes ln.
func Serve(ctx context.Context, ln net.Listener, k Keychain) error {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+loginPath, func(w http.ResponseWriter, r *http.Request) {
		var q loginRequest
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
		if err := d.Decode(&q); err != nil || q.Repository == "" {
			http.Error(w, "want a repository", http.StatusBadRequest)
			return
		}
		login := k.login(r.Context(), q.Repository)
		if login == nil {
			http.Error(w, "there is no login for it", http.StatusNotFound)
			return
		}
		_ = json.NewEncoder(w).Encode(login)
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: headerTime, BaseContext: func(net.Listener) context.Context { return ctx }}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(ownPeers{ln}); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("logins: %w", err)
	}
	return nil
}

// ownPeers accepts connections of this process's user alone.
type ownPeers struct{ net.Listener }

func (l ownPeers) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if u, ok := c.(*net.UnixConn); ok && fdpass.CheckPeer(u) == nil {
			return c, nil
		}
		_ = c.Close()
	}
}

// A Client asks who serves logins on a socket. While nobody does, there are none.
type Client struct{ socket string }

var (
	_ authn.Keychain        = Client{}
	_ authn.ContextKeychain = Client{}
)

// NewClient returns a client for a unix socket.
func NewClient(socket string) Client { return Client{socket} }

// Resolve implements [authn.Keychain].
func (c Client) Resolve(r authn.Resource) (authn.Authenticator, error) {
	return c.ResolveContext(context.Background(), r)
}

// ResolveContext implements [authn.ContextKeychain].
func (c Client) ResolveContext(ctx context.Context, r authn.Resource) (authn.Authenticator, error) {
	login, err := c.ask(ctx, r.String())
	if err != nil {
		return nil, fmt.Errorf("login for %s from %s: %w", r, c.socket, err)
	}
	if login == nil {
		return authn.Anonymous, nil
	}
	return authn.FromConfig(*login), nil
}

func (c Client) ask(ctx context.Context, repository string) (*authn.AuthConfig, error) {
	ctx, cancel := context.WithTimeout(ctx, clientTime)
	defer cancel()
	body, err := json.Marshal(loginRequest{repository})
	if err != nil {
		return nil, err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.socket)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	// Who listens there could be anybody.
	if err := fdpass.CheckPeer(conn.(*net.UnixConn)); err != nil {
		_ = conn.Close()
		if errors.Is(err, errors.ErrUnsupported) {
			return nil, nil
		}
		return nil, err
	}
	t := &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}
	defer func() { _ = conn.Close() }()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, socketAgent+loginPath, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxSecret+1))
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode == http.StatusNotFound:
		return nil, nil
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s: %.200q", resp.Status, answer)
	case len(answer) > maxSecret:
		return nil, fmt.Errorf("more than %d bytes", maxSecret)
	}
	login := new(authn.AuthConfig)
	if err := json.Unmarshal(answer, login); err != nil {
		return nil, errors.New("the answer is no login")
	}
	return login, nil
}
