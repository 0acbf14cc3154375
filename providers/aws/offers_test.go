package aws_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/nightshift-batch/nightshift/providers"
	"github.com/nightshift-batch/nightshift/providers/aws"
)

// spotPrice is one entry of a price history.
func spotPrice(instanceType, zone, price, since string) string {
	return fmt.Sprintf("<item><instanceType>%s</instanceType><productDescription>Linux/UNIX</productDescription><spotPrice>%s</spotPrice><timestamp>%s</timestamp><availabilityZone>%s</availabilityZone></item>",
		instanceType, price, since, zone)
}

// quote replaces moto's prices.
func (c *cloud) quote(items ...string) {
	c.locked(func() {
		c.rewrites["DescribeSpotPriceHistory"] = func([]byte) []byte {
			return []byte(`<DescribeSpotPriceHistoryResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><spotPriceHistorySet>` + strings.Join(items, "") + `</spotPriceHistorySet></DescribeSpotPriceHistoryResponse>`)
		}
	})
}

func offersByID(t *testing.T, p *aws.Provider) map[string]providers.Offer {
	t.Helper()
	offers, err := p.Offers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	byID := map[string]providers.Offer{}
	for _, offer := range offers {
		byID[offer.ID] = offer
	}
	return byID
}

func TestAnOfferTellsWhatPodsCanUseAndWhatItCosts(t *testing.T) {
	c := newCloud(t, plenty)
	c.quote(
		spotPrice("m5.large", "us-east-1a", "0.041000", "2026-01-02T03:00:00.000Z"),
		spotPrice("m5.large", "us-east-1a", "0.034500", "2026-01-02T04:00:00.000Z"),
		spotPrice("m5.large", "us-east-1a", "0.050000", "2026-01-02T02:00:00.000Z"),
	)
	p := c.provider(func(config *aws.Config) { config.EphemeralStorageBytes = 20 << 30 })
	const eightGiB = int64(8 << 30)
	got, ok := offersByID(t, p)[spotOffer]
	if !ok {
		t.Fatalf("%s is not offered", spotOffer)
	}
	if got.PriceMicrosPerHour != 34_500 || got.OnDemandPriceMicrosPerHour != 96_000 || got.Arch != "amd64" || got.Market != providers.Spot ||
		got.Zone != "us-east-1a" || got.InstanceType != "m5.large" || got.Available != -1 || got.InterruptionsPerMillionHours != -1 {
		t.Errorf("the offer is %+v", got)
	}
	if r := got.Resources; r["cpu"] != 2000 || r["ephemeral-storage"] != 20<<30 || r["pods"] != 110 || r["memory"] > eightGiB*93/100-256<<20 || r["memory"] < eightGiB*92/100-256<<20 {
		t.Errorf("its resources are %v", r)
	}
}

func TestOffersLeaveOutWhatHasNoPriceAndLogItOnce(t *testing.T) {
	c := newCloud(t, plenty)
	c.quote(spotPrice("m5.large", "us-east-1a", "0.034500", "2026-01-02T03:00:00.000Z"))
	config := c.config()
	delete(config.OnDemandPricesMicrosPerHour, "c5.xlarge")
	var log bytes.Buffer
	p, err := aws.New(t.Context(), config, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	offersByID(t, p)
	var got []string
	for id := range offersByID(t, p) {
		got = append(got, id)
	}
	slices.Sort(got)
	if want := []string{"m5.large/us-east-1a/on-demand", "m5.large/us-east-1a/spot", "m5.large/us-east-1b/on-demand"}; !slices.Equal(got, want) {
		t.Errorf("offers %v, want %v", got, want)
	}
	for _, reason := range []string{"what=c5.xlarge reason=\"it has no price in onDemandPricesMicrosPerHour", "what=m5.large/us-east-1b/spot reason=\"EC2 tells no spot price"} {
		if count := strings.Count(log.String(), reason); count != 1 {
			t.Errorf("the log tells %q %d times, want once:\n%s", reason, count, log.String())
		}
	}
}

func TestAWrongSpotPriceIsAnError(t *testing.T) {
	c := newCloud(t, plenty)
	c.quote(spotPrice("m5.large", "us-east-1a", "cheap", "2026-01-02T03:00:00.000Z"))
	_, err := c.provider().Offers(t.Context())
	wantKind(t, err, providers.KindTransient)
}

func TestGPUsAreOfferedByTheirResourceName(t *testing.T) {
	c := newCloud(t, plenty)
	p := c.provider(func(config *aws.Config) {
		config.InstanceTypes = []string{"g4dn.12xlarge"}
		config.OnDemandPricesMicrosPerHour = map[string]int64{"g4dn.12xlarge": 3_912_000}
	})
	if got := offersByID(t, p)["g4dn.12xlarge/us-east-1a/on-demand"].Resources["nvidia.com/gpu"]; got != 4 {
		t.Errorf("a g4dn.12xlarge offers %d GPUs, want 4", got)
	}
}

func TestAnAMIByItsParameterIsLeftToEC2(t *testing.T) {
	c := newCloud(t, plenty)
	p := c.provider(func(config *aws.Config) {
		config.ImageID = "resolve:ssm:/aws/service/ami"
		config.InstanceTypes = []string{"m6g.large"}
		config.OnDemandPricesMicrosPerHour = map[string]int64{"m6g.large": 77_000}
	})
	for id, offer := range offersByID(t, p) {
		if offer.Arch != "arm64" {
			t.Errorf("%s is %s, want arm64", id, offer.Arch)
		}
	}
}

func TestPricesAreReadWithoutLoss(t *testing.T) {
	for text, want := range map[string]int64{"0.034500": 34_500, "1": 1_000_000, "12.5": 12_500_000, "0.00001": 10, "0.0000001": 1, "0.1234561": 123_457, "3.9120000000": 3_912_000} {
		if got, err := aws.MicroDollars(text); err != nil || got != want {
			t.Errorf("%s dollars are %d micro-dollars, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0", "0.000000", "-1", "1e3", "0.1x", "1.2.3", "99999999999999"} {
		if got, err := aws.MicroDollars(text); err == nil {
			t.Errorf("%q dollars are %d micro-dollars, want an error", text, got)
		}
	}
}
