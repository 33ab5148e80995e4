package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/closured/closured/internal/logkey"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/binarycache"
)

// cacheFlags are those of the binary cache for other nodes.
type cacheFlags struct {
	address string // empty: no cache, and no peers
	keyFile string
	peers   string // namespace/selector; empty: nobody is asked
}

func (c *cacheFlags) define(fs *flag.FlagSet) {
	fs.StringVar(&c.address, "cache-address", "", "`address` of the binary cache for other nodes, such as :5859; empty: none, and none is asked")
	fs.StringVar(&c.keyFile, "cache-key-file", "", "`file` of the installation's secret key, which signs what nodes serve each other; further lines are other keys, which do so, too")
	fs.StringVar(&c.peers, "cache-peers", "", "`namespace/labels` of the agents' pods, which are asked for images that their nodes built; empty: nobody is asked")
}

func (c *cacheFlags) problems() []error {
	var problems []error
	if (c.address == "") != (c.keyFile == "") {
		problems = append(problems, errors.New("--cache-address and --cache-key-file: give both, or none"))
	}
	if _, port, err := net.SplitHostPort(c.address); c.address != "" && (err != nil || port == "") {
		problems = append(problems, fmt.Errorf("--cache-address %q: write it as host:port, such as :5859", c.address))
	}
	namespace, labels, ok := strings.Cut(c.peers, "/")
	if c.peers != "" && (!ok || namespace == "" || labels == "" || c.address == "") {
		problems = append(problems, fmt.Errorf("--cache-peers %q: write namespace/label=value, with --cache-address", c.peers))
	}
	return problems
}

// neighbours is what nodes give each other; the zero value gives and takes nothing.
type neighbours struct {
	keys      []binarycache.SecretKey
	server    *binarycache.Server
	passwords *passwords
	peers     *peers
}

// readCacheKeys needs nothing, and tells openStore whom to believe.
func (a *agent) readCacheKeys(context.Context) (err error) {
	if a.cfg.cache.address == "" {
		return nil
	}
	text, err := os.ReadFile(a.cfg.cache.keyFile)
	if err != nil {
		return fmt.Errorf("reading --cache-key-file: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.TrimSpace(line) == "" {
			continue
		}
		key, err := binarycache.ParseSecretKey(line)
		if err != nil {
			return fmt.Errorf("reading --cache-key-file: %w", err)
		}
		a.neighbours.keys = append(a.neighbours.keys, key)
	}
	if len(a.neighbours.keys) == 0 {
		return errors.New("--cache-key-file holds no key: make one with nix-store --generate-binary-cache-key")
	}
	return nil
}

// daemonOptions gives --nix-option, with what makes the daemon believe other nodes.
func (a *agent) daemonOptions() map[string]string {
	options := a.cfg.nixOptions()
	if len(a.neighbours.keys) == 0 {
		return options
	}
	for name, value := range binarycache.NixOptions(a.neighbours.keys, a.netrc()) {
		if name == "extra-trusted-public-keys" {
			value = strings.TrimSpace(options[name] + " " + value)
		}
		options[name] = value
	}
	return options
}

// openPeers needs the cluster.
func (a *agent) openPeers(ctx context.Context) error {
	if len(a.neighbours.keys) == 0 {
		return nil
	}
	var err error
	if a.neighbours.passwords, err = a.openPasswords(ctx); err != nil {
		return err
	}
	if a.cfg.cache.peers == "" || a.cluster.images == nil {
		return nil
	}
	p := &peers{
		nodes: a.cluster.images.Nodes, pods: a.cluster.client, passwords: a.neighbours.passwords,
		own: a.cfg.nodeName, log: a.component("peers"),
	}
	p.namespace, p.labels, _ = strings.Cut(a.cfg.cache.peers, "/")
	_, p.port, _ = net.SplitHostPort(a.cfg.cache.address)
	a.neighbours.peers = p
	return nil
}

// openCache serves the store to other nodes.
func (a *agent) openCache(ctx context.Context) error {
	if len(a.neighbours.keys) == 0 {
		return nil
	}
	log := a.component("cache")
	handler, err := binarycache.New(binarycache.Config{
		Store: a.store, StoreDir: filepath.Join(a.cfg.storeRoot, nixstore.Dir), Keys: a.neighbours.keys, Log: log, Registerer: a.metrics,
	})
	if err != nil {
		return err
	}
	a.neighbours.server, err = binarycache.Listen(ctx, binarycache.ServerConfig{Address: a.cfg.cache.address, Handler: handler, Log: log})
	return err
}

// substituters gives what the provider asks; nil when nobody is asked.
func (n neighbours) substituters() func(context.Context, []nixstore.StorePath) []string {
	if n.peers == nil {
		return nil
	}
	return n.peers.substituters
}

// parts gives what has to run.
func (n neighbours) parts() []func(context.Context) error {
	var parts []func(context.Context) error
	if n.server != nil {
		parts = append(parts, n.server.Run)
	}
	if n.passwords != nil {
		parts = append(parts, n.passwords.run)
	}
	return parts
}

func (n neighbours) close() {
	if n.server != nil {
		_ = n.server.Close() // after Run it is closed already
	}
}

// askedMax bounds how many nodes are asked for one closure: each that is gone
// costs Nix some seconds.
const askedMax = 3

// peers finds the agents of nodes that have a closure. Safe for concurrent use.
type peers struct {
	nodes func(root nixstore.StorePath) []string
	pods  interface {
		PodIPs(ctx context.Context, namespace, selector, node string) ([]string, error)
	}
	namespace, labels, port string
	passwords               *passwords
	own                     string // name of this node
	log                     *slog.Logger
}

// substituters gives the binary caches of nodes that have one of the paths, whose
// passwords Nix knows until ctx ends. What goes wrong is logged: there are other caches.
func (p *peers) substituters(ctx context.Context, paths []nixstore.StorePath) []string {
	addresses := p.addresses(ctx, paths)
	if len(addresses) == 0 {
		return nil
	}
	all, err := binarycache.Substituters(addresses)
	if err == nil {
		err = p.passwords.tell(ctx, addresses)
	}
	if err != nil {
		p.log.Warn("other nodes are not asked", slog.String(logkey.Error, err.Error()))
		return nil
	}
	p.log.Debug("other nodes are asked", slog.String(logkey.Address, strings.Join(addresses, " ")))
	return all
}

// addresses gives where the agents of those nodes serve.
func (p *peers) addresses(ctx context.Context, paths []nixstore.StorePath) []string {
	var nodes []string
	for _, path := range paths {
		nodes = append(nodes, p.nodes(path)...)
	}
	slices.Sort(nodes)
	nodes = slices.DeleteFunc(slices.Compact(nodes), func(name string) bool { return name == p.own })
	rand.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] }) //nolint:gosec // no secret
	var addresses []string
	for _, node := range nodes[:min(len(nodes), askedMax)] {
		ips, err := p.pods.PodIPs(ctx, p.namespace, p.labels, node)
		if err != nil {
			p.log.Warn("a node that has the closure cannot be found", slog.String(logkey.Node, node), slog.String(logkey.Error, err.Error()))
			continue
		}
		for _, ip := range ips {
			addresses = append(addresses, net.JoinHostPort(ip, p.port))
		}
	}
	return addresses
}
