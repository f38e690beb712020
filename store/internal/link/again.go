package link

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/rivuletfs/rivulet/store/internal/retry"
)

// NewPolicy returns how the requests of one store are tried again: six times in
// 3 s and more; all together, retries are a tenth of the requests, and 32 and 4
// a second.
func NewPolicy() retry.Policy {
	return retry.Policy{
		Budget:   &retry.Budget{Share: 0.1, PerSecond: 4, Burst: 32},
		Attempts: 6,
		First:    100 * time.Millisecond,
		Longest:  20 * time.Second,
	}
}

// An operation may take so long in all.
const (
	patience = 60 * time.Second
	slowest  = 32 << 10 // bytes per second that it moves at least
)

// Limit returns a context that ends when an operation that moves size bytes has
// had its time.
func Limit(ctx context.Context, size int64) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, patience+time.Duration(float64(size)/slowest*float64(time.Second)))
}

// RetryAfter returns how long a server asks to wait (RFC 9110, 10.2.3); 0 if it
// does not.
func RetryAfter(h http.Header) time.Duration {
	v := h.Get("Retry-After")
	if s, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(s) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}

// Transient reports whether a status says that the same request may succeed
// later.
func Transient(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// Permanent reports whether the error of a connection will be the same next
// time: certificates that are not trusted, hosts that are not there.
func Permanent(err error) bool {
	var dns *net.DNSError
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	return errors.As(err, &unknown) || errors.As(err, &name) || errors.As(err, &invalid) ||
		errors.As(err, &dns) && dns.IsNotFound ||
		strings.Contains(err.Error(), "HTTP response to HTTPS client")
}
