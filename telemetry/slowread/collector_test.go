package slowread

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestEnvironment reads the variables that OpenTelemetry has defined.
func TestEnvironment(t *testing.T) {
	const endpoint, traces = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
	file := filepath.Join(t.TempDir(), "ca")
	if err := os.WriteFile(file, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		env  map[string]string
		url  string // "": none
		fail string // part of the error
	}{
		{nil, "", ""},
		{map[string]string{endpoint: "http://host:4318"}, "http://host:4318/v1/traces", ""},
		{map[string]string{endpoint: "https://host/base/"}, "https://host/base/v1/traces", ""},
		{map[string]string{endpoint: "http://host", traces: "http://other/x"}, "http://other/x", ""},
		{map[string]string{"OTEL_TRACES_EXPORTER": "otlp"}, "http://localhost:4318/v1/traces", ""},
		{map[string]string{endpoint: "http://host", "OTEL_TRACES_EXPORTER": "none"}, "", ""},
		{map[string]string{endpoint: "http://host", "OTEL_SDK_DISABLED": "true"}, "", ""},
		{map[string]string{endpoint: "http://host", "OTEL_TRACES_EXPORTER": "zipkin"}, "", "zipkin"},
		{map[string]string{endpoint: "host:4318"}, "", "http://"},
		{map[string]string{endpoint: "http://host", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "", "http/protobuf"},
		{map[string]string{endpoint: "http://host", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}, "http://host/v1/traces", ""},
		{map[string]string{endpoint: "http://host", "OTEL_EXPORTER_OTLP_COMPRESSION": "lz4"}, "", "lz4"},
		{map[string]string{endpoint: "http://host", "OTEL_EXPORTER_OTLP_TIMEOUT": "0"}, "", "milliseconds"},
		{map[string]string{endpoint: "http://host", "OTEL_EXPORTER_OTLP_HEADERS": "a=b,secret"}, "", "HEADERS"},
		{map[string]string{endpoint: "http://host", "OTEL_EXPORTER_OTLP_CERTIFICATE": file}, "", "no certificate"},
		{map[string]string{endpoint: "http://host", "OTEL_EXPORTER_OTLP_CERTIFICATE": file + "x"}, "", "CERTIFICATE"},
		{map[string]string{endpoint: "http://host", "OTEL_EXPORTER_OTLP_CLIENT_KEY": file}, "", "CLIENT_KEY"},
	} {
		got, err := collectorOf(func(name string) string { return c.env[name] })
		switch {
		case c.fail != "":
			if err == nil || !strings.Contains(err.Error(), c.fail) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%v: error %v, want one with %q", c.env, err, c.fail)
			}
		case err != nil:
			t.Errorf("%v: %v", c.env, err)
		case (got == nil) != (c.url == "") || got != nil && got.url != c.url:
			t.Errorf("%v: %+v, want %q", c.env, got, c.url)
		}
	}
	got, err := collectorOf(func(name string) string {
		return map[string]string{
			endpoint: "http://host", "OTEL_EXPORTER_OTLP_HEADERS": " a = b%2Cc , d=e", "OTEL_EXPORTER_OTLP_TIMEOUT": "2500", "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
		}[name]
	})
	if err != nil || got.header.Get("A") != "b,c" || got.header.Get("D") != "e" || got.limit != 2500*time.Millisecond || !got.gzip {
		t.Errorf("%+v, %v", got, err)
	}
}
