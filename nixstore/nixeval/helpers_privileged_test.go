//go:build privileged

package nixeval_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/nixeval"
)

// node is a store with its daemon, and a place for package sets.
type node struct {
	dir    string
	socket string
	daemon *exec.Cmd
}

func newNode(t *testing.T) *node {
	t.Helper()
	nixtest.Require(t)
	dir := nixtest.StateDir(t)
	n := &node{dir: dir, socket: filepath.Join(dir, "socket")}
	n.write(t, "etc/nix.conf", "build-users-group =\nsubstituters =\nexperimental-features = nix-command flakes\n")
	nixtest.Run(t, dir, "nix-store", "--init") // two clients at once of a new store are one too many for Nix
	n.daemon = exec.CommandContext(t.Context(), "nix-daemon")
	n.daemon.Env = []string{
		"PATH=" + os.Getenv("PATH"), "NIX_REMOTE=local?root=" + dir, "NIX_DAEMON_SOCKET_PATH=" + n.socket,
		"NIX_CONF_DIR=" + filepath.Join(dir, "etc"), "HOME=" + dir,
	}
	// The daemon starts a process for each client: they end with its group.
	n.daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	n.daemon.Cancel = func() error { return syscall.Kill(-n.daemon.Process.Pid, syscall.SIGKILL) }
	if err := n.daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = n.daemon.Cancel()
		_ = n.daemon.Wait()
	})
	deadline := time.Now().Add(20 * time.Second)
	for {
		if conn, err := net.Dial("unix", n.socket); err == nil {
			_ = conn.Close()
			return n
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody listens at the socket")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// write writes a file below the node's folder and gives its path.
func (n *node) write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(n.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// evaluator is one over the package set of testSet, changed by change.
func (n *node) evaluator(t *testing.T, change func(*nixeval.Config)) *nixeval.Evaluator {
	t.Helper()
	cfg := nixeval.Config{
		Socket: n.socket, StoreRoot: n.dir, PackageSet: n.write(t, "pkgs.nix", testSet),
		MemoryBytes: 512 << 20, Timeout: 60 * time.Second,
	}
	if change != nil {
		change(&cfg)
	}
	e, err := nixeval.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// testSet needs neither network nor builder: it is only evaluated.
const testSet = `
{ system, config, overlays ? [ ] }:
let
  make = name: extra: derivation ({ inherit name system; builder = "/bin/sh"; args = [ "-c" "echo > $out" ]; } // extra);
in
rec {
  hello = make "hello-1.0" { note = builtins.toFile "note" "x"; };
  redis = make "redis-7.0" { inherit hello; };
  curl = make "curl-8.0" { outputs = [ "bin" "out" "dev" ]; };
  python3Packages = { numpy = make "numpy-1.0" { }; PyYAML = make "pyyaml-6.0" { }; };
  notAPackage = { a = 1; };
  number = 12;
  list = [ hello redis ];
  broken = throw "this package is broken";
  fake = { type = "derivation"; name = "fake"; inherit (hello) drvPath; outPath = "/nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-x"; outputName = "out"; };
  configured = if config == { } && overlays == [ ] then hello else throw "config";
}
`

func packages(names ...string) nixstore.Source {
	return nixstore.Source{Kind: nixstore.SourcePackages, Packages: names}
}

func expr(text string) nixstore.Source {
	return nixstore.Source{Kind: nixstore.SourceExpr, Expr: text}
}

func flake(ref string) nixstore.Source {
	return nixstore.Source{Kind: nixstore.SourceFlake, Flake: ref}
}

// shown writes outputs as "name!output" for comparison.
func shown(outputs []nixstore.Output) string {
	var all []string
	for _, o := range outputs {
		all = append(all, strings.TrimSuffix(o.Derivation.Name(), ".drv")+"!"+o.Name)
	}
	return strings.Join(all, " ")
}
