// Command nightshift-provider-aws lends EC2 instances to a control plane, which starts it. Its configuration is aws.Config as JSON;
// its credentials come from the AWS SDK's default chain (environment, shared files, instance profile).
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/nightshift-batch/nightshift/providers"
	"github.com/nightshift-batch/nightshift/providers/aws"
	"github.com/nightshift-batch/nightshift/providers/plugin"
)

// openWithin bounds what the configuration asks of EC2 at the start.
const openWithin = time.Minute

func main() {
	if err := plugin.Serve(open); err != nil {
		fmt.Fprintln(os.Stderr, "nightshift-provider-aws:", err)
		os.Exit(1)
	}
}

func open(data []byte, logger *slog.Logger) (providers.Provider, error) {
	config, err := aws.ParseConfig(data)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), openWithin)
	defer cancel()
	provider, err := aws.New(ctx, config, logger)
	if err != nil {
		return nil, err // a nil *aws.Provider is no nil providers.Provider
	}
	return provider, nil
}
