package nixtest

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Command gives a command of Nix that works on the store of a state directory
// directly, without daemon, network or settings of the machine. It is meant
// for preparing a store and for comparing with what Nix says.
func Command(tb testing.TB, stateDir, program string, args ...string) *exec.Cmd {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), program, args...)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + stateDir,
		"NIX_REMOTE=local?root=" + stateDir,
		"NIX_CONFIG=build-users-group =\nsubstituters =\nexperimental-features = nix-command flakes",
	}
	return cmd
}

// Run runs Command and gives the lines of its output.
func Run(tb testing.TB, stateDir, program string, args ...string) []string {
	tb.Helper()
	cmd := Command(tb, stateDir, program, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		tb.Fatalf("running %s %s: %v\n%s", program, strings.Join(args, " "), err, stderr.String())
	}
	return strings.Fields(string(out))
}

// TextClosure adds a closure of n plain files to the store of stateDir, and
// gives its root. It takes about half a second for a thousand.
func TextClosure(tb testing.TB, stateDir string, n int, seed string) string {
	tb.Helper()
	lines := Run(tb, stateDir, "nix-instantiate", "--eval", "--read-write-mode", Fixture(tb, "text-closure.nix"),
		"--arg", "n", fmt.Sprint(n), "--argstr", "seed", seed, "-A", "root")
	if len(lines) != 1 {
		tb.Fatalf("instantiating the text closure gave %q", lines)
	}
	return strings.Trim(lines[0], `"`)
}

// SyntheticDerivation adds the derivation of a synthetic closure to the store
// of stateDir, unbuilt, and gives it and its output. args are further arguments
// of synthetic-closure.nix, such as "--arg", "files", "20".
func SyntheticDerivation(tb testing.TB, stateDir string, n int, seed string, args ...string) (drv, out string) {
	tb.Helper()
	all := append([]string{
		Fixture(tb, "synthetic-closure.nix"), "--argstr", "busybox", Busybox(tb),
		"--arg", "n", fmt.Sprint(n), "--argstr", "seed", seed, "-A", "root",
	}, args...)
	return Instantiate(tb, stateDir, all...)
}

// Instantiate runs nix-instantiate with args, which must give one derivation,
// and gives it and its first output.
func Instantiate(tb testing.TB, stateDir string, args ...string) (drv, out string) {
	tb.Helper()
	drvs := Run(tb, stateDir, "nix-instantiate", args...)
	if len(drvs) != 1 {
		tb.Fatalf("instantiating gave %q", drvs)
	}
	outs := Run(tb, stateDir, "nix-store", "-q", "--outputs", drvs[0])
	if len(outs) == 0 {
		tb.Fatalf("%s has no outputs", drvs[0])
	}
	return drvs[0], outs[0]
}

// SyntheticClosure is SyntheticDerivation, built; it gives the root.
func SyntheticClosure(tb testing.TB, stateDir string, n int, seed string, args ...string) string {
	tb.Helper()
	drv, out := SyntheticDerivation(tb, stateDir, n, seed, args...)
	Run(tb, stateDir, "nix-store", "--realise", drv)
	return out
}
