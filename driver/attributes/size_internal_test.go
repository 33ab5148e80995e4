package attributes

import (
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
