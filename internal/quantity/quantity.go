// Package quantity reads and writes sizes in bytes as Kubernetes writes them:
// a decimal number and one of Ki, Mi, Gi, Ti, Pi or k, M, G, T, P, or none.
//
// It is not resource.Quantity: exponents (1e9) and thousandths (500m) are
// refused, since nobody means them where bytes are asked for. Functions are
// pure, so that anybody may call them concurrently.
package quantity

import (
	"errors"
	"math/bits"
	"strconv"
	"strings"
)

// MaxBytes is the greatest size that Parse gives; more is a typing error.
const MaxBytes = 1 << 50

// The errors of Parse.
var (
	ErrSyntax = errors.New("is not a size such as 500Mi or 10Gi")
	ErrRange  = errors.New("is more than " + strconv.Itoa(MaxBytes) + " bytes")
)

// maxDigits bounds each side of a size's dot, so that neither overflows 64 bits.
const maxDigits = 18

// Parse reads a size in bytes. What is no whole number of bytes is rounded up, as
// Kubernetes does. Its errors are ErrSyntax and ErrRange.
func Parse(s string) (int64, error) {
	end := strings.IndexFunc(s, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	if end < 0 {
		end = len(s)
	}
	unit, ok := unitBytes(s[end:])
	whole, fraction, dotted := strings.Cut(s[:end], ".")
	if !ok || whole == "" || dotted && fraction == "" || strings.Contains(fraction, ".") {
		return 0, ErrSyntax
	}
	size, fits := scale(whole, fraction, unit)
	if !fits || size > MaxBytes {
		return 0, ErrRange
	}
	return int64(size), nil
}

// scale gives (whole.fraction × unit) rounded up; false when it does not fit.
func scale(whole, fraction string, unit uint64) (uint64, bool) {
	whole = strings.TrimLeft(whole, "0")
	fraction = strings.TrimRight(fraction, "0")
	if len(whole) > maxDigits || len(fraction) > maxDigits {
		return 0, false
	}
	high, low := bits.Mul64(number(whole), unit)
	if high != 0 || low > MaxBytes {
		return 0, false
	}
	power := uint64(1)
	for range len(fraction) {
		power *= 10
	}
	partHigh, partLow := bits.Mul64(number(fraction), unit)
	// The quotient fits: fraction < power, hence partHigh < power.
	part, rest := bits.Div64(partHigh, partLow, power)
	if rest > 0 {
		part++
	}
	return low + part, true // at most 2^50 + 2^50
}

// number reads at most maxDigits digits; none are 0.
func number(digits string) uint64 {
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func unitBytes(suffix string) (uint64, bool) {
	const binary, decimal = "KMGTP", "kMGTP"
	if suffix == "" {
		return 1, true
	}
	if letter, ok := strings.CutSuffix(suffix, "i"); ok && len(letter) == 1 {
		power := strings.Index(binary, letter)
		return 1 << (10 * max(power+1, 0)), power >= 0
	}
	power := strings.Index(decimal, suffix)
	if len(suffix) != 1 || power < 0 {
		return 0, false
	}
	unit := uint64(1)
	for range power + 1 {
		unit *= 1000
	}
	return unit, true
}

// Format writes a size so that Parse gives it back: in the greatest binary unit
// that divides it.
func Format(bytes int64) string {
	for power := 5; power > 0; power-- {
		unit := int64(1) << (10 * power)
		if bytes != 0 && bytes%unit == 0 {
			return strconv.FormatInt(bytes/unit, 10) + string("KMGTP"[power-1]) + "i"
		}
	}
	return strconv.FormatInt(bytes, 10)
}
