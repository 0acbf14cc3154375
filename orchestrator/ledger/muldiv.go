package ledger

import "math/bits"

// mulDiv returns amount*weight/total, rounded down, with a product of 128 bits. Weight is at most total.
func mulDiv(amount Amount, weight, total int64) Amount {
	high, low := bits.Mul64(uint64(amount), uint64(weight))
	quotient, _ := bits.Div64(high, low, uint64(total))
	return Amount(quotient)
}
