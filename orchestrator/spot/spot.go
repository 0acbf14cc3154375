// Package spot owns the arithmetic of prices and risk. It is pure and imports nothing; money is in integer micro-dollars.
package spot

import "fmt"

// The markets, as facts and offers name them.
const (
	Market         = "spot"
	OnDemandMarket = "on-demand"
)

// Dollars writes micro-dollars as a decimal with six places: 34500 is "0.034500".
func Dollars(micros int64) string {
	sign := ""
	if micros < 0 {
		sign, micros = "-", -micros
	}
	return fmt.Sprintf("%s%d.%06d", sign, micros/1_000_000, micros%1_000_000)
}
