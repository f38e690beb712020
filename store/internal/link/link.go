// Package link makes the HTTP connections of stores that are far away.
//
// They are many and kept: a store has as many requests in flight as it may have
// connections, and idle ones are used again. HTTP/2 is off, for it would put
// all requests on one connection, whose loss and congestion they would share.
// A connection on which nothing moves for a while is given up, so that a peer
// that is gone without a word holds up nobody for long; how fast it must be in
// all, the operation's context says.
package link

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Defaults of [Options].
const (
	Connections = 64
	Stall       = 30 * time.Second
)

// idle is how long an unused connection is kept: shorter than servers usually
// do, so that it is mostly us who close.
const idle = 20 * time.Second

// handshakeTime is how long TLS may take to begin.
const handshakeTime = 10 * time.Second

// maxCAFile is the size of the largest file of certificates, in bytes.
const maxCAFile = 4 << 20

// Options are what connections are made with.
type Options struct {
	Connections int           // at most at once; 0: Connections
	Stall       time.Duration // without a byte in either direction; 0: Stall
	CAFile      string        // PEM certificates of authorities that are trusted besides the system's; "": none
	// Spare is how many connections are opened beside the first one to a server, so that who goes on to ask
	// for several things at once need not wait for them, nor for TLS to begin: in all, no more than
	// Connections. Those that nobody takes are closed soon.
	Spare int
}

// New returns a transport. Close its idle connections when done.
func New(o Options) (*http.Transport, error) {
	if o.Connections == 0 {
		o.Connections = Connections
	}
	if o.Stall == 0 {
		o.Stall = Stall
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(0)}
	if o.CAFile != "" {
		pool, err := Authorities(o.CAFile)
		if err != nil {
			return nil, err
		}
		config.RootCAs = pool
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}
	dial := func(ctx context.Context, network, addr string, closed func()) (net.Conn, error) {
		c, err := dialer.DialContext(ctx, network, addr)
		if err != nil {
			closed()
			return nil, err
		}
		return &movingConn{Conn: c, stall: o.Stall, closed: sync.OnceFunc(closed)}, nil
	}
	t := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            withSpares(dial, &o),
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    handshakeTime,
		MaxConnsPerHost:        o.Connections,
		MaxIdleConns:           o.Connections,
		MaxIdleConnsPerHost:    o.Connections,
		IdleConnTimeout:        idle,
		MaxResponseHeaderBytes: 256 << 10,
		WriteBufferSize:        64 << 10,
		ReadBufferSize:         64 << 10,
		DisableCompression:     true, // what is stored is wanted as it is
		Protocols:              new(http.Protocols),
	}
	t.Protocols.SetHTTP1(true)
	if o.Spare > 0 {
		t.DialTLSContext = withSpares(func(ctx context.Context, network, addr string, closed func()) (net.Conn, error) {
			return dialTLS(ctx, dial, network, addr, t.TLSClientConfig, closed)
		}, &o)
	}
	return t, nil
}

// dialTLS opens a connection, as a dialFunc does, and begins TLS over it as a transport would.
func dialTLS(ctx context.Context, dial dialFunc, network, addr string, config *tls.Config, closed func()) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		closed()
		return nil, err
	}
	c, err := dial(ctx, network, addr, closed)
	if err != nil {
		return nil, err
	}
	config = config.Clone()
	config.ServerName = host
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	secure := tls.Client(c, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = c.Close()
		return nil, err
	}
	return secure, nil
}

// Authorities returns the system's certificate authorities and those of a file.
func Authorities(file string) (*x509.CertPool, error) {
	info, err := os.Stat(file)
	if err == nil && info.Size() > maxCAFile {
		err = fmt.Errorf("more than %d bytes", maxCAFile)
	}
	if err != nil {
		return nil, fmt.Errorf("ca=%s: %w", file, err)
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("ca=%s: %w", file, err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca=%s: no PEM certificate in it", file)
	}
	return pool, nil
}

// A movingConn fails when no byte has moved for as long as stall while somebody
// reads or writes.
type movingConn struct {
	net.Conn
	stall  time.Duration
	closed func() // called when it is
}

func (c *movingConn) Close() error {
	err := c.Conn.Close()
	c.closed()
	return err
}

// Either direction puts off the end of both: while a body is sent, nothing is
// received.

func (c *movingConn) Read(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(c.stall)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c *movingConn) Write(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(c.stall)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// closedByForeignHost is what minio-go makes of an io.EOF.
const closedByForeignHost = "Connection closed by foreign host"

// Hint says what to do about an error of a connection to host, or "".
func Hint(err error, host string) string {
	var dns *net.DNSError
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var op *net.OpError
	switch {
	case errors.As(err, &unknown):
		return "its certificate is signed by nobody this machine trusts: name the file of its authority with ca=FILE"
	case errors.As(err, &name), errors.As(err, &invalid):
		return "its certificate is not good for this address and time: check the address and this machine's clock"
	case err != nil && strings.Contains(err.Error(), "HTTP response to HTTPS client"):
		return "it does not speak TLS: write http:// if it is meant to"
	case errors.As(err, &dns) && dns.IsNotFound:
		return fmt.Sprintf("there is no host %s: check the address", host)
	case errors.As(err, &op) && op.Op == "dial", errors.As(err, &dns):
		return fmt.Sprintf("%s cannot be reached: check the address, and that the server is up", host)
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), err != nil && strings.Contains(err.Error(), closedByForeignHost):
		return fmt.Sprintf("%s, or what is between, closes connections without an answer: try again later, or with connections=8 in the store's URL", host)
	}
	return ""
}
