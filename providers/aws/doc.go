// Package aws lends EC2 instances: offers from the spot price history and a table of on-demand prices, launches by an instant EC2
// Fleet, and life by polling DescribeInstances.
//
// It owns no state that matters. What it must know again after a crash stands on the instances as tags:
//
//	nightshift-owner    the control plane that they belong to
//	nightshift-key      the launch that made them
//	nightshift-request  a digest of that launch's request, the bootstrap left out
//
// An offer is TYPE/ZONE/MARKET. It is no tag: tags are given before EC2 chooses type and zone, so an instance's offer is read
// from what EC2 says about the instance.
//
// # One key, one launch
//
// Two memories hold it. EC2 remembers a client token, which derives from owner, key and market: a repeat returns the first answer,
// also when that answer was lost or two callers send at once
// (https://docs.aws.amazon.com/AWSEC2/latest/APIReference/Run_Instance_Idempotency.html). That memory ends, so before anything is sent
// the instances of the key are looked for by tag, ended ones included (EC2 tells of those for about an hour); if there are any,
// they are the answer. The look alone would not do, since DescribeInstances may lag behind a launch by seconds; the token alone would
// not do, since a control plane may come back with a key the next morning.
//
// A launch asks for the market of its first offer, then, if instances are missing for want of capacity or quota, for the next market.
//
// # What comes later
//
// Watch polls. A spot interruption shows as the end of the instance with the cause Server.SpotInstanceTermination; there is no
// notice before it and no rebalance recommendation until events come over EventBridge and SQS. The chance of an interruption is not known (-1).
// On-demand prices are the operator's table. Limits of an account are learnt by running into them.
//
// # How it fails
//
// Every error is an *providers.Error whose kind comes from the EC2 error code (errors.go); an error without a code is transient. The SDK
// repeats throttled and broken calls by itself before that, with the same client token.
package aws
