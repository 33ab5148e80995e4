package quantity_test

import (
	"errors"
	"math/big"
	"strings"
	"testing"

	"github.com/closured/closured/internal/quantity"
)

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]error{
		"": quantity.ErrSyntax, "Gi": quantity.ErrSyntax, "1.": quantity.ErrSyntax, "-1Gi": quantity.ErrSyntax, "1e9": quantity.ErrSyntax,
		"500m": quantity.ErrSyntax, "1K": quantity.ErrSyntax, "1Ei": quantity.ErrSyntax, "2Pi": quantity.ErrRange,
		"1" + strings.Repeat("0", 4000): quantity.ErrRange, "18446744073709551616": quantity.ErrRange,
	} {
		if got, err := quantity.Parse(s); !errors.Is(err, want) {
			t.Errorf("Parse(%q) = %d, %v, want %v", s, got, err, want)
		}
	}
}

func TestFormatGivesWhatParseReads(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"0", "1", "1023", "1Ki", "1536", "500Mi", "10Gi", "3Ti", "1Pi"} {
		bytes, err := quantity.Parse(s)
		if got := quantity.Format(bytes); err != nil || got != s && !sameSize(got, bytes) {
			t.Errorf("Format(Parse(%q)) = %q, %v", s, got, err)
		}
	}
}

func sameSize(s string, want int64) bool {
	got, err := quantity.Parse(s)
	return err == nil && got == want
}

// FuzzParse compares the sizes that are accepted with exact arithmetic.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"10Gi", "500Mi", "1G", "1.5Gi", "1048576.000001", "0001M", "1.999999999999999999Ti"} {
		f.Add(s)
	}
	units := map[string]int64{
		"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15,
		"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50,
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := quantity.Parse(s)
		if err != nil {
			return
		}
		digits := strings.TrimRight(s, "kKMGTPi")
		value, ok := new(big.Rat).SetString(digits)
		unit, known := units[s[len(digits):]]
		if !ok || !known {
			t.Fatalf("Parse(%q) = %d accepts what is no size", s, got)
		}
		value.Mul(value, new(big.Rat).SetInt64(unit))
		want, rest := new(big.Int).QuoRem(value.Num(), value.Denom(), new(big.Int))
		if rest.Sign() > 0 {
			want.Add(want, big.NewInt(1))
		}
		if want.Cmp(big.NewInt(got)) != 0 || got < 0 || got > quantity.MaxBytes {
			t.Errorf("Parse(%q) = %d, want %s", s, got, want)
		}
	})
}
