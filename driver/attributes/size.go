package attributes

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

// The bounds of sizeLimit, in bytes.
const (
	// MinSizeLimitBytes is the least sizeLimit: less does not hold the folders of a layer.
	MinSizeLimitBytes = 1 << 20
	// MaxSizeLimitBytes is the greatest sizeLimit; more is a typing error.
	MaxSizeLimitBytes = 1 << 50
)

// maxDigits bounds each side of a size's dot, so that neither overflows 64 bits.
const maxDigits = 18

// parseSize reads a size in bytes as Kubernetes writes them: a decimal number and
// one of Ki, Mi, Gi, Ti, Pi or k, M, G, T, P, or none. What is no whole number of
// bytes is rounded up, as resource.Quantity does. Exponents (1e9) and thousandths
// (500m) are refused: nobody means them here. The text tells the problem, or "".
func parseSize(s string) (int64, string) {
	end := strings.IndexFunc(s, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	if end < 0 {
		end = len(s)
	}
	unit, ok := unitBytes(s[end:])
	whole, fraction, dotted := strings.Cut(s[:end], ".")
	if !ok || whole == "" || dotted && fraction == "" || strings.Contains(fraction, ".") {
		return 0, "is not a size"
	}
	size, fits := scale(whole, fraction, unit)
	switch {
	case !fits || size > MaxSizeLimitBytes:
		return 0, fmt.Sprintf("is more than %d bytes", int64(MaxSizeLimitBytes))
	case size < MinSizeLimitBytes:
		return 0, fmt.Sprintf("is less than %d bytes", MinSizeLimitBytes)
	}
	return int64(size), ""
}

// scale gives (whole.fraction × unit) rounded up; false when it does not fit.
func scale(whole, fraction string, unit uint64) (uint64, bool) {
	whole = strings.TrimLeft(whole, "0")
	fraction = strings.TrimRight(fraction, "0")
	if len(whole) > maxDigits || len(fraction) > maxDigits {
		return 0, false
	}
	high, low := bits.Mul64(number(whole), unit)
	if high != 0 || low > MaxSizeLimitBytes {
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
