package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/closured/closured/internal/quantity"
	"github.com/closured/closured/registry/closureimage"
)

// defaultPackageSet is the nixpkgs that this release was made against: the
// nixos-25.11 branch of 2026-05-10, pinned by revision and content hash.
const defaultPackageSet = "github:NixOS/nixpkgs/8fd9daa3db09ced9700431c5b7ad0e8ba199b575" +
	"?narHash=sha256-Ti%2BZBvW6yrWWAg2szExVTwCd4qOJ3KlVr1tFHfyfi8Q%3D"

// config is what the flags say.
type config struct {
	endpoint     string
	driverName   string
	nodeName     string
	stateDir     string
	storeRoot    string
	kubeletDir   string
	httpAddress  string
	packageSet   string
	policyFile   string
	daemon       string
	kubeconfig   string
	startupTaint string
	allowIFD     bool
	substituter  list
	trustedKey   list
	nixOption    list
	evalMemory   size
	evalTimeout  time.Duration
	registry     registryFlags
	cache        cacheFlags
	logLevel     slog.Level
	version      bool
}

// registryFlags are those of images.
type registryFlags struct {
	address     string // empty: no registry
	netns       string // empty: the own network namespace
	host        string
	certsDir    string // empty: nowhere
	compression closureimage.Compression
	keep        time.Duration
}

func (r *registryFlags) define(fs *flag.FlagSet) {
	fs.StringVar(&r.address, "registry-address", "127.0.0.1:5858", "loopback `address` of the registry; empty: no registry")
	fs.StringVar(&r.netns, "registry-netns", "", "`file` of the network namespace that the registry listens in, such as /proc/1/ns/net; default: the agent's own")
	fs.StringVar(&r.host, "registry-host", "nix.internal", "`host` part of image names")
	fs.StringVar(&r.certsDir, "containerd-certs-dir", "/etc/containerd/certs.d", "containerd's `folder` for the one hosts.toml that leads image names to the registry; empty: nowhere")
	fs.TextVar(&r.compression, "registry-compression", closureimage.None, "how layers are sent: none, gzip or zstd")
	fs.DurationVar(&r.keep, "registry-keep", 24*time.Hour, "how long a closure stays pinned after it was last pulled")
	fs.Lookup("registry-keep").DefValue = "24h"
}

func (r *registryFlags) problems() []error {
	var problems []error
	if r.keep <= 0 {
		problems = append(problems, fmt.Errorf("--registry-keep %s: give a positive duration such as 24h", r.keep))
	}
	return problems
}

// parseFlags reads the command line. The error is flag.ErrHelp when help was
// asked for, which was then printed to out.
func parseFlags(args []string, nodeName string, out io.Writer) (config, error) {
	c := config{evalMemory: 2 << 30}
	fs := flag.NewFlagSet("closured", flag.ContinueOnError)
	fs.SetOutput(out)
	fs.Usage = func() { usage(fs) }
	fs.StringVar(&c.endpoint, "endpoint", "unix:///csi/csi.sock", "CSI `socket` to listen on")
	fs.StringVar(&c.driverName, "driver-name", "csi.closured.dev", "CSI driver `name`; volumes say it")
	fs.StringVar(&c.nodeName, "node-name", nodeName, "NodeGetInfo's node id; default $NODE_NAME, else the host name")
	fs.StringVar(&c.stateDir, "state-dir", "/var/lib/closured", "`folder` of store, views and caches; one agent each")
	fs.StringVar(&c.storeRoot, "store-root", "", "`root` of the Nix store; default the state directory, / uses the host's own store")
	fs.StringVar(&c.kubeletDir, "kubelet-dir", "/var/lib/kubelet", "register with this kubelet and accept only targets below it; empty: neither")
	fs.StringVar(&c.httpAddress, "http-address", "127.0.0.1:9858", "`address` of /healthz, /readyz and /metrics; empty: none")
	fs.StringVar(&c.packageSet, "package-set", defaultPackageSet, "where packages are looked up: a flake reference, or a path to a Nix file or folder that gives an attribute set or a function to one")
	fs.StringVar(&c.policyFile, "policy", "", "policy `file`, reloaded on change; default: store paths, packages and images for all, flakes and expressions for none")
	fs.Var(&c.substituter, "substituter", "binary cache `URL`, repeatable; default: nix.conf's")
	fs.Var(&c.trustedKey, "trusted-public-key", "`key` whose signatures are trusted, repeatable; default: nix.conf's")
	fs.Var(&c.nixOption, "nix-option", "`name=value` for nix.conf, repeatable; sandbox and signatures cannot be turned off")
	fs.StringVar(&c.daemon, "nix-daemon-socket", "", "`socket` of a Nix daemon that serves the store; default: the agent runs its own")
	fs.StringVar(&c.kubeconfig, "kubeconfig", "", "`file` that says where the API server is; default: the pod's service account, or no Kubernetes where there is none")
	fs.StringVar(&c.startupTaint, "startup-taint", "closured.dev/agent-not-ready", "`key` of the taint that is removed from the own node when volumes can be published; empty: none")
	fs.BoolVar(&c.allowIFD, "allow-import-from-derivation", false, "let evaluations build what they then read")
	fs.Var(&c.evalMemory, "eval-memory", "address space of one evaluation, a `size` such as 2Gi")
	fs.DurationVar(&c.evalTimeout, "eval-timeout", time.Minute, "an evaluation that takes longer is ended")
	c.registry.define(fs)
	c.cache.define(fs)
	fs.TextVar(&c.logLevel, "log-level", slog.LevelInfo, "lowest `level` to log: debug, info, warn or error")
	fs.BoolVar(&c.version, "version", false, "print the version and exit")
	fs.Lookup("eval-timeout").DefValue = "1m" // as people write them
	fs.Lookup("log-level").DefValue = "info"
	if err := fs.Parse(args); err != nil {
		return config{}, err
	}
	if fs.NArg() > 0 {
		return config{}, fmt.Errorf("argument %q: closured takes flags only; see closured -help", fs.Arg(0))
	}
	return c.complete()
}

// complete fills what depends on other flags and checks what can be checked
// without touching the node; it returns every problem.
func (c config) complete() (config, error) {
	if c.storeRoot == "" {
		c.storeRoot = c.stateDir
	}
	problems := append(c.registry.problems(), c.cache.problems()...)
	for _, f := range []struct{ name, value string }{
		{"state-dir", c.stateDir},
		{"store-root", c.storeRoot},
		{"kubelet-dir", c.kubeletDir},
		{"nix-daemon-socket", c.daemon},
		{"kubeconfig", c.kubeconfig},
		{"registry-netns", c.registry.netns},
		{"containerd-certs-dir", c.registry.certsDir},
		{"cache-key-file", c.cache.keyFile},
	} {
		if f.value != "" && (!filepath.IsAbs(f.value) || filepath.Clean(f.value) != f.value) {
			problems = append(problems, fmt.Errorf("--%s %q: give an absolute path without .. and double slashes", f.name, f.value))
		}
	}
	if c.stateDir == "" || c.stateDir == "/" {
		problems = append(problems, errors.New("--state-dir: give a folder of its own"))
	}
	if c.nodeName == "" {
		problems = append(problems, errors.New("--node-name is empty"))
	}
	if c.evalTimeout <= 0 {
		problems = append(problems, fmt.Errorf("--eval-timeout %s: give a positive duration such as 1m", c.evalTimeout))
	}
	if strings.ContainsAny(c.startupTaint, "=: ,\t\n") {
		problems = append(problems, fmt.Errorf("--startup-taint %q: give the taint's key alone, without value and effect", c.startupTaint))
	}
	for _, o := range c.nixOption {
		if name, _, ok := strings.Cut(o, "="); !ok || name == "" {
			problems = append(problems, fmt.Errorf("--nix-option %q: write name=value", o))
		}
	}
	return c, errors.Join(problems...)
}

// nixOptions gives --nix-option as a map; the last of a name wins.
func (c config) nixOptions() map[string]string {
	options := make(map[string]string, len(c.nixOption))
	for _, o := range c.nixOption {
		name, value, _ := strings.Cut(o, "=")
		options[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}
	return options
}

// usage prints one line a flag with two dashes, as the README writes them.
func usage(fs *flag.FlagSet) {
	out := fs.Output()
	_, _ = fmt.Fprint(out, "closured gives Nix closures to pods: a CSI driver for one node.\n\n")
	fs.VisitAll(func(f *flag.Flag) {
		value, text := flag.UnquoteUsage(f)
		_, _ = fmt.Fprintf(out, "  --%s %s\n        %s", f.Name, value, text)
		if f.DefValue != "" && f.DefValue != "false" && f.Name != "node-name" {
			_, _ = fmt.Fprintf(out, " (default %s)", f.DefValue)
		}
		_, _ = fmt.Fprintln(out)
	})
}

// list is a flag that may be given several times.
type list []string

func (l *list) String() string { return strings.Join(*l, " ") }

// Set adds one value.
func (l *list) Set(s string) error {
	if s == "" || strings.ContainsAny(s, "\n\r\x00") {
		return errors.New("give one value, in one line")
	}
	*l = append(*l, s)
	return nil
}

// size is a flag in bytes, written as a Kubernetes quantity.
type size int64

func (s *size) String() string { return quantity.Format(int64(*s)) }

// Set parses one size.
func (s *size) Set(text string) error {
	bytes, err := quantity.Parse(text)
	*s = size(bytes)
	return err
}

func defaultNodeName() string {
	if name := os.Getenv("NODE_NAME"); name != "" {
		return name
	}
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}
