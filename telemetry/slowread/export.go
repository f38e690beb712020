package slowread

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"

	"github.com/rivuletfs/rivulet/internal/loglimit"
)

// Export returns what sends spans to where the environment says, by the variables that
// OpenTelemetry has defined; doc/metrics.md lists those that are understood. It returns
// nil if they ask for nothing. Whoever has it shuts it down, which sends what is
// left. version is the program's. What cannot be sent is told to log; that is the
// library's setting for all of the process.
func Export(ctx context.Context, version string, log *slog.Logger) (*trace.TracerProvider, error) {
	c, err := collectorOf(os.Getenv)
	if c == nil || err != nil {
		return nil, err
	}
	log = loglimit.New(log)
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("traces", "err", err) }))
	exporter, err := otlptrace.New(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("traces: %w", err)
	}
	about, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", "rivulet"), attribute.String("service.version", version)),
		resource.WithTelemetrySDK(), resource.WithHost(), resource.WithProcessPID(),
		resource.WithFromEnv(), // last: it decides
	)
	if err != nil && !errors.Is(err, resource.ErrPartialResource) {
		return nil, errors.Join(fmt.Errorf("traces: %w", err), exporter.Shutdown(ctx))
	}
	return trace.NewTracerProvider(trace.WithBatcher(exporter), trace.WithResource(about)), nil
}
