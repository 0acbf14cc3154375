package aws

import "github.com/nightshift-batch/nightshift/providers"

// SetPageSize bounds the pages of DescribeInstances, so that a few instances make several.
func (p *Provider) SetPageSize(size int32) { p.pageSize = size }

// MicroDollars is microDollars.
var MicroDollars = microDollars

// UserData is what an instance is started with.
func (c Config) UserData(bootstrap providers.Bootstrap) (string, error) { return c.userData(bootstrap) }
