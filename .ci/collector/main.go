// Command otelcol is the OpenTelemetry collector that the tests export traces to, made of the collector's own parts and
// pinned by this module so that a fresh machine needs none. It has what the tests configure and no more: it receives
// OTLP, and writes what it got by the debug exporter. Of itself it tells by its log alone: metrics and traces about the
// collector would cost a port and half a hundred modules.
package main

import (
	"context"
	"os"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/fileprovider"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/debugexporter"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/service/telemetry"
	"go.uber.org/zap"
)

func main() {
	command := otelcol.NewCommand(otelcol.CollectorSettings{
		BuildInfo: component.BuildInfo{Command: "otelcol", Description: "the collector of Nightshift's tests"},
		Factories: factories,
		ConfigProviderSettings: otelcol.ConfigProviderSettings{ResolverSettings: confmap.ResolverSettings{
			DefaultScheme: "file", ProviderFactories: []confmap.ProviderFactory{fileprovider.NewFactory()},
		}},
	})
	if err := command.Execute(); err != nil { // it has been printed
		os.Exit(1)
	}
}

func factories() (otelcol.Factories, error) {
	receivers, err := otelcol.MakeFactoryMap[receiver.Factory](otlpreceiver.NewFactory())
	if err != nil {
		return otelcol.Factories{}, err
	}
	exporters, err := otelcol.MakeFactoryMap[exporter.Factory](debugexporter.NewFactory())
	if err != nil {
		return otelcol.Factories{}, err
	}
	unconfigured := func() component.Config { return &struct{}{} }
	return otelcol.Factories{
		Receivers: receivers, Exporters: exporters, Telemetry: telemetry.NewFactory(unconfigured, telemetry.WithCreateLogger(logger)),
	}, nil
}

// logger writes to standard error, one JSON object a line.
func logger(_ context.Context, settings telemetry.LoggerSettings, _ component.Config) (*zap.Logger, component.ShutdownFunc, error) {
	log, err := settings.BuildZapLogger(zap.NewProductionConfig())
	return log, nil, err
}
