package slowread

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// How a collector is asked.
const (
	defaultEndpoint = "http://localhost:4318/v1/traces"
	defaultTimeout  = 10 * time.Second
	tries           = 3           // of one upload
	firstPause      = time.Second // before the second; then twice that
)

// A collector takes spans by OTLP over HTTP, in the encoding of Protocol Buffers: the
// "OTLP Specification", section OTLP/HTTP. It stands in for the library's own client
// (otlptracehttp), which brings gRPC into the program: half as large again, and 7 MiB of
// memory in every process.
type collector struct {
	url    string
	header http.Header
	gzip   bool
	limit  time.Duration // of an upload, with its retries
	http   *http.Client
}

var _ otlptrace.Client = (*collector)(nil)

// collectorOf returns the collector that the environment names; nil if it names none.
func collectorOf(env func(string) string) (*collector, error) {
	// Of a variable, the one for traces goes before the one for all signals.
	get := func(name string) string {
		if v := env("OTEL_EXPORTER_OTLP_TRACES_" + name); v != "" {
			return v
		}
		return env("OTEL_EXPORTER_OTLP_" + name)
	}
	exporter := env("OTEL_TRACES_EXPORTER")
	if strings.EqualFold(env("OTEL_SDK_DISABLED"), "true") || exporter == "none" {
		return nil, nil
	}
	if exporter != "" && exporter != "otlp" {
		return nil, fmt.Errorf("OTEL_TRACES_EXPORTER is %q: want otlp or none", exporter)
	}
	c := &collector{url: env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), header: make(http.Header), limit: defaultTimeout}
	if base := env("OTEL_EXPORTER_OTLP_ENDPOINT"); c.url == "" && base != "" {
		c.url = strings.TrimSuffix(base, "/") + "/v1/traces"
	}
	if c.url == "" {
		if exporter == "" {
			return nil, nil // nobody has asked for traces
		}
		c.url = defaultEndpoint
	}
	if u, err := url.Parse(c.url); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: want an address that begins with http:// or https://")
	}
	if p := get("PROTOCOL"); p != "" && p != "http/protobuf" {
		return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_PROTOCOL is %q: want http/protobuf", p)
	}
	switch s := get("COMPRESSION"); s {
	case "", "none":
	case "gzip":
		c.gzip = true
	default:
		return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_COMPRESSION is %q: want gzip or none", s)
	}
	if s := get("TIMEOUT"); s != "" {
		ms, err := strconv.ParseUint(s, 10, 31)
		if err != nil || ms == 0 {
			return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_TIMEOUT is %q: want a number of milliseconds", s)
		}
		c.limit = time.Duration(ms) * time.Millisecond
	}
	if err := c.setHeader(get("HEADERS")); err != nil {
		return nil, err
	}
	secure, err := trust(get("CERTIFICATE"), get("CLIENT_CERTIFICATE"), get("CLIENT_KEY"))
	if err != nil {
		return nil, err
	}
	c.http = &http.Client{Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: secure, MaxIdleConns: 1, IdleConnTimeout: time.Minute,
	}}
	return c, nil
}

// setHeader takes "name=value,name=value", the values escaped as in a URL. What is in
// it may be secret, so no error shows it.
func (c *collector) setHeader(list string) error {
	for pair := range strings.SplitSeq(list, ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		name, value, ok := strings.Cut(pair, "=")
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if name = strings.TrimSpace(name); !ok || err != nil || name == "" {
			return fmt.Errorf("OTEL_EXPORTER_OTLP_HEADERS: want name=value, several separated by commas")
		}
		c.header.Add(name, value)
	}
	return nil
}

// trust returns how TLS is spoken: with the authorities in a file instead of the
// system's, and the client's own certificate, if files are named.
func trust(authorities, certificate, key string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if authorities != "" {
		pem, err := os.ReadFile(authorities)
		if err != nil {
			return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_CERTIFICATE: %w", err)
		}
		if c.RootCAs = x509.NewCertPool(); !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_CERTIFICATE: %s has no certificate", authorities)
		}
	}
	if certificate != "" || key != "" {
		own, err := tls.LoadX509KeyPair(certificate, key)
		if err != nil {
			return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and _CLIENT_KEY: %w", err)
		}
		c.Certificates = []tls.Certificate{own}
	}
	return c, nil
}

// Start implements [otlptrace.Client]: there is nothing to do before the first upload.
func (c *collector) Start(context.Context) error { return nil }

// Stop implements [otlptrace.Client].
func (c *collector) Stop(context.Context) error {
	c.http.CloseIdleConnections()
	return nil
}

// UploadTraces implements [otlptrace.Client].
func (c *collector) UploadTraces(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	// TracesData has the very bytes of an ExportTraceServiceRequest, whose package needs
	// gRPC.
	body, err := proto.Marshal(&tracepb.TracesData{ResourceSpans: spans})
	if err != nil {
		return err
	}
	if c.gzip {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		if _, err := w.Write(body); err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
		body = b.Bytes()
	}
	ctx, cancel := context.WithTimeout(ctx, c.limit)
	defer cancel()
	for try, pause := 1, firstPause; ; try, pause = try+1, 2*pause {
		again, err := c.post(ctx, body)
		if err == nil || !again || try == tries {
			return err
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		}
	}
}

// post sends a request, and says whether another one could do better.
func (c *collector) post(ctx context.Context, body []byte) (again bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	req.Header = c.header.Clone()
	req.Header.Set("Content-Type", "application/x-protobuf")
	if c.gzip {
		req.Header.Set("Content-Encoding", "gzip")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return true, err
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be used again
	_ = resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK, http.StatusAccepted, http.StatusNoContent:
		return false, nil
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		again = true
	}
	return again, fmt.Errorf("the collector of traces answers %s", resp.Status)
}
