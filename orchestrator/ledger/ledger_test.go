package ledger

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestSharesSumToTheAmountWhateverTheWeights(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 10_000 {
		amount := Amount(random.Int64N(1 << 50))
		weights := make([]int64, 1+random.IntN(20))
		for i := range weights {
			weights[i] = random.Int64N(1_000_000)
			if random.IntN(4) == 0 {
				weights[i] = 0
			}
		}
		var sum Amount
		for i, share := range Split(amount, weights) {
			if share < 0 {
				t.Fatalf("share %d of %d by %v is negative: %d", i, amount, weights, share)
			}
			sum += share
		}
		if sum != amount {
			t.Fatalf("shares of %d by %v sum to %d", amount, weights, sum)
		}
	}
}

func TestIntervalsThatMeetAddUp(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	for range 1_000 {
		at, price := start, 1+random.Int64N(50_000_000)
		var sum Amount
		for range 50 {
			next := at.Add(time.Duration(random.Int64N(int64(time.Minute))))
			sum += Accrue(price, at, next)
			at = next
		}
		if whole := Accrue(price, start, at); whole != sum {
			t.Fatalf("the parts come to %d, the whole to %d", sum, whole)
		}
	}
}

func TestAnHourAtAPriceIsThePrice(t *testing.T) {
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	if got := Accrue(34_500, start, start.Add(time.Hour)).Micros(); got != 34_500 {
		t.Errorf("an hour at 34500 micro-dollars an hour is %d", got)
	}
	if got := Accrue(34_500, start.Add(time.Hour), start).Micros(); got != 0 {
		t.Errorf("an interval that runs backwards costs %d", got)
	}
}

func TestEvictedWorkIsPaidButNotPartOfTheOnDemandPrice(t *testing.T) {
	account := Account{}.
		WithAttempt(Charge{Paid: 10, OnDemand: 30}, false).
		WithAttempt(Charge{Paid: 5, OnDemand: 15}, true).
		WithIdle(Charge{Paid: 2, OnDemand: 6})
	want := Account{Paid: 17, OnDemand: 36, Evicted: 5, Idle: 2}
	if account != want {
		t.Errorf("account is %+v, want %+v", account, want)
	}
}
