// Package ledger owns money: how an instance's price is shared among the pods that it holds, and what a Job cost.
//
// Money is an integer throughout. An Amount is exact, in millionths of a dollar an hour times milliseconds, so that splitting and
// summing lose nothing: what the Jobs are charged is, to the last unit, what the instances cost. It is rounded once, when it becomes
// micro-dollars on a receipt. Every function is pure.
package ledger

import (
	"slices"
	"time"
)

// Amount of money in micro-dollar-milliseconds an hour: 3,600,000 of them are one micro-dollar.
type Amount int64

const perMicro = 3_600_000

// Micros returns the amount in micro-dollars, rounded half up. Amounts are never negative.
func (a Amount) Micros() int64 { return (int64(a) + perMicro/2) / perMicro }

// Accrue returns what a price, in micro-dollars an hour, comes to between two times. The times are cut to whole milliseconds, so that
// intervals which meet add up without a gap. It is zero when to is not after from.
func Accrue(priceMicrosPerHour int64, from, to time.Time) Amount {
	milliseconds := to.UnixMilli() - from.UnixMilli()
	if milliseconds <= 0 {
		return 0
	}
	return Amount(priceMicrosPerHour * milliseconds)
}

// Split divides an amount in proportion to the weights, which are not negative. The shares sum to the amount exactly: what does not divide
// goes to the first ones, a unit each. Where no weight is above zero, and where all are alike, all shares are equal but for that rest. No weights, no shares.
func Split(amount Amount, weights []int64) []Amount {
	return AppendSplit(nil, amount, weights)
}

// AppendSplit appends to shares what Split returns.
func AppendSplit(to []Amount, amount Amount, weights []int64) []Amount {
	to = slices.Grow(to, len(weights))
	all := to[:len(to)+len(weights)]
	shares := all[len(to):]
	if len(weights) == 0 {
		return all
	}
	var total int64
	alike := true
	for _, weight := range weights {
		total += weight
		alike = alike && weight == weights[0]
	}
	rest := amount
	for i, weight := range weights {
		if alike {
			shares[i] = amount / Amount(len(weights))
		} else {
			shares[i] = mulDiv(amount, weight, total)
		}
		rest -= shares[i]
	}
	for i := 0; rest > 0; i = (i + 1) % len(shares) {
		shares[i]++
		rest--
	}
	return all
}

// Account is what a Job has been charged.
type Account struct {
	// Paid for spot and on-demand instances, in all.
	Paid Amount
	// OnDemand is what the same work would have cost on demand, without what evictions wasted.
	OnDemand Amount
	// Evicted is the part of Paid that went into attempts which were evicted.
	Evicted Amount
	// Idle is the part of Paid for time in which the instance held no pod.
	Idle Amount
}

// Charge is what one attempt, or one idle stretch, has cost so far.
type Charge struct {
	Paid     Amount
	OnDemand Amount
}

// Plus returns the sum of two charges.
func (c Charge) Plus(other Charge) Charge {
	return Charge{Paid: c.Paid + other.Paid, OnDemand: c.OnDemand + other.OnDemand}
}

// WithAttempt returns the account after an attempt ended. Work that was evicted would not have been done twice on demand.
func (a Account) WithAttempt(charge Charge, evicted bool) Account {
	a.Paid += charge.Paid
	if evicted {
		a.Evicted += charge.Paid
	} else {
		a.OnDemand += charge.OnDemand
	}
	return a
}

// WithIdle returns the account after an idle stretch.
func (a Account) WithIdle(charge Charge) Account {
	a.Paid += charge.Paid
	a.Idle += charge.Paid
	a.OnDemand += charge.OnDemand
	return a
}
