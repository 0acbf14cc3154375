package plugin

import (
	"time"

	"github.com/nightshift-batch/nightshift/providers"
	"github.com/nightshift-batch/nightshift/providers/plugin/pluginpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func offerToWire(o providers.Offer) *pluginpb.Offer {
	return &pluginpb.Offer{
		Id: o.ID, InstanceType: o.InstanceType, Zone: o.Zone, Market: string(o.Market), Arch: o.Arch, Resources: o.Resources,
		PriceMicrosPerHour: o.PriceMicrosPerHour, OnDemandPriceMicrosPerHour: o.OnDemandPriceMicrosPerHour,
		Available: o.Available, InterruptionsPerMillionHours: o.InterruptionsPerMillionHours,
	}
}

func offerFromWire(o *pluginpb.Offer) providers.Offer {
	return providers.Offer{
		ID: o.GetId(), InstanceType: o.GetInstanceType(), Zone: o.GetZone(), Market: providers.Market(o.GetMarket()), Arch: o.GetArch(),
		Resources: o.GetResources(), PriceMicrosPerHour: o.GetPriceMicrosPerHour(), OnDemandPriceMicrosPerHour: o.GetOnDemandPriceMicrosPerHour(),
		Available: o.GetAvailable(), InterruptionsPerMillionHours: o.GetInterruptionsPerMillionHours(),
	}
}

func launchToWire(r providers.LaunchRequest) *pluginpb.LaunchRequest {
	return &pluginpb.LaunchRequest{
		Key: r.Key, Owner: r.Owner, OfferIds: r.OfferIDs, Count: int64(r.Count),
		Bootstrap: &pluginpb.Bootstrap{Address: r.Bootstrap.Address, CaCertificate: r.Bootstrap.CACertificate, Token: r.Bootstrap.Token},
	}
}

func launchFromWire(r *pluginpb.LaunchRequest) providers.LaunchRequest {
	b := r.GetBootstrap()
	return providers.LaunchRequest{
		Key: r.GetKey(), Owner: r.GetOwner(), OfferIDs: r.GetOfferIds(), Count: int(r.GetCount()),
		Bootstrap: providers.Bootstrap{Address: b.GetAddress(), CACertificate: b.GetCaCertificate(), Token: b.GetToken()},
	}
}

func instancesToWire(instances []providers.Instance) []*pluginpb.Instance {
	out := make([]*pluginpb.Instance, 0, len(instances))
	for _, i := range instances {
		out = append(out, &pluginpb.Instance{Id: i.ID, Key: i.Key, OfferId: i.OfferID, State: string(i.State)})
	}
	return out
}

func instancesFromWire(instances []*pluginpb.Instance) []providers.Instance {
	var out []providers.Instance
	for _, i := range instances {
		out = append(out, providers.Instance{ID: i.GetId(), Key: i.GetKey(), OfferID: i.GetOfferId(), State: providers.InstanceState(i.GetState())})
	}
	return out
}

func eventToWire(e providers.Event) *pluginpb.Event {
	out := &pluginpb.Event{Kind: string(e.Kind), InstanceId: e.InstanceID, Cause: e.Cause}
	if !e.Deadline.IsZero() {
		out.Deadline = timestamppb.New(e.Deadline)
	}
	return out
}

func eventFromWire(e *pluginpb.Event) providers.Event {
	out := providers.Event{Kind: providers.EventKind(e.GetKind()), InstanceID: e.GetInstanceId(), Cause: e.GetCause()}
	if e.GetDeadline() != nil {
		out.Deadline = e.GetDeadline().AsTime()
	}
	return out
}

func interruptToWire(instanceID string, notice time.Duration) *pluginpb.InterruptRequest {
	return &pluginpb.InterruptRequest{InstanceId: instanceID, NoticeNanos: int64(notice)}
}
