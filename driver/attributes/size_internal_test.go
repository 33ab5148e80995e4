package attributes

import (
	"math/big"
	"strings"
	"testing"
)

func TestParseSizeRefuses(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"", " ", "Gi", ".", "1.", ".5Gi", "1..5Gi", "1.2.3Gi", "-1Gi", "+1Gi", "1 Gi", "1Gi ", "1gi", "1KI", "1K",
		"1e9", "1E", "1Ei", "500m", "1GiB", "1Gii", "1i", "0", "0Gi", "1023Ki", "1Mib", "0x10Mi", "1_000Mi", "١Gi",
		"2Pi", "1.1Pi", "2000P", "18446744073709551616", "9999999999999999999999Gi", "1.0000000000000000001Gi",
		"9223372036854775808", "16777216Ti", "1" + strings.Repeat("0", 4000),
	} {
		if got, problem := parseSize(s); problem == "" {
			t.Errorf("parseSize(%q) = %d, want a problem", s, got)
		}
	}
}

// FuzzParseSize compares the sizes that are accepted with exact arithmetic.
func FuzzParseSize(f *testing.F) {
	for _, s := range []string{"10Gi", "500Mi", "1G", "1.5Gi", "1048576.000001", "0001M", "1.999999999999999999Ti"} {
		f.Add(s)
	}
	units := map[string]int64{
		"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15,
		"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50,
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, problem := parseSize(s)
		if problem != "" {
			return
		}
		digits := strings.TrimRight(s, "kKMGTPi")
		value, ok := new(big.Rat).SetString(digits)
		unit, known := units[s[len(digits):]]
		if !ok || !known {
			t.Fatalf("parseSize(%q) = %d accepts what is no size", s, got)
		}
		value.Mul(value, new(big.Rat).SetInt64(unit))
		want, rest := new(big.Int).QuoRem(value.Num(), value.Denom(), new(big.Int))
		if rest.Sign() > 0 {
			want.Add(want, big.NewInt(1))
		}
		if want.Cmp(big.NewInt(got)) != 0 || got < MinSizeLimitBytes || got > MaxSizeLimitBytes {
			t.Errorf("parseSize(%q) = %d, want %s", s, got, want)
		}
	})
}

func TestNearestFindsWhatWasMeant(t *testing.T) {
	t.Parallel()
	known := knownKeys("x86_64-linux")
	for key, want := range map[string]string{
		"storepath": KeyStorePath, "store_path": KeyStorePath, "storePaths": KeyStorePath, "package": KeyPackages,
		"pkgs": KeyPackages, "flake": KeyFlakeRef, "flakeref": KeyFlakeRef, "nixexpr": KeyNixExpr, "expr": KeyNixExpr,
		"images": KeyImage, "writeable": KeyWritable, "hostusers": KeyHostUsers, "size": KeySizeLimit,
		"x86-64-linux": KeyX86, "arm64-linux": KeyARM, strings.Repeat("z", 4000): KeyStorePath,
	} {
		got := nearest(key, known)
		if len(key) < 40 && got != want {
			t.Errorf("nearest(%q) = %q, want %q", key, got, want)
		}
		if got == "" {
			t.Errorf("nearest(%q) finds nothing", key)
		}
	}
}
