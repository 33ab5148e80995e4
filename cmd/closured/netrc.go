package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/closured/closured/internal/logkey"
	"github.com/closured/closured/nixstore/binarycache"
)

// refreshPasswords is how often the file of passwords is made anew: sooner than a
// failed realisation is begun again.
const refreshPasswords = 5 * time.Second

// netrc is the file of passwords that the daemon reads, for lack of a way to have
// it read two: the operator's, and those of other nodes.
func (a *agent) netrc() string { return filepath.Join(a.cfg.stateDir, "etc", "netrc") }

// openPasswords makes the file of passwords. Also without peers: Nix reads it
// instead of the operator's.
func (a *agent) openPasswords(ctx context.Context) (*passwords, error) {
	p := &passwords{log: a.component("passwords"), asked: map[string][]<-chan struct{}{}}
	p.netrc = binarycache.Netrc{
		Path: a.netrc(), Key: a.neighbours.keys[0],
		// The second is a copy by a daemon in a container of its own, where alone the
		// operator's file may be mounted (deploy/image/nix-daemon).
		Operators: []string{a.operatorsNetrc(ctx, p.log), a.netrc() + ".operator"},
	}
	if err := os.MkdirAll(filepath.Dir(p.netrc.Path), 0o755); err != nil {
		return nil, fmt.Errorf("making the folder of netrc: %w", err)
	}
	return p, p.refresh()
}

// operatorsNetrc gives the file that Nix would read otherwise.
func (a *agent) operatorsNetrc(ctx context.Context, log *slog.Logger) string {
	const usual = "/etc/nix/netrc" // Nix's default
	if file := a.cfg.nixOptions()["netrc-file"]; file != "" {
		return file
	}
	file, err := a.store.OperatorSetting(ctx, "netrc-file")
	if err != nil {
		log.Warn("the operator's file of passwords is not known, taking the usual one", slog.String(logkey.Error, err.Error()))
		return usual
	}
	return file
}

// passwords keeps the file of passwords. Safe for concurrent use.
type passwords struct {
	log *slog.Logger

	mu    sync.Mutex // guards what follows, and the file
	netrc binarycache.Netrc
	asked map[string][]<-chan struct{} // for each address in it, what is closed when it is asked no more
}

// tell lets Nix know the passwords of the nodes at addresses until ctx ends. Not
// for longer: the address may be another pod's by then, which Nix would tell it.
func (p *passwords) tell(ctx context.Context, addresses []string) error {
	p.mu.Lock()
	for _, address := range addresses {
		p.asked[address] = append(p.asked[address], ctx.Done())
	}
	p.mu.Unlock()
	return p.refresh()
}

// refresh writes the file when it is not as it should be: the operator's may have
// another content, and fetches have ended.
func (p *passwords) refresh() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for address, ends := range p.asked {
		if ends = slices.DeleteFunc(ends, closed); len(ends) > 0 {
			p.asked[address] = ends
		} else {
			delete(p.asked, address)
		}
	}
	return p.netrc.Write(slices.Sorted(maps.Keys(p.asked)))
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// run keeps the file as it should be until ctx ends. It always gives nil.
func (p *passwords) run(ctx context.Context) error {
	ticker := time.NewTicker(refreshPasswords)
	defer ticker.Stop()
	told := ""
	for {
		trouble := ""
		if err := p.refresh(); err != nil {
			trouble = err.Error()
		}
		if trouble != told && trouble != "" {
			p.log.Error("passwords for binary caches are not as they should be", slog.String(logkey.Error, trouble))
		}
		told = trouble
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}
