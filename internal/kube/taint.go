package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/closured/closured/internal/logkey"
)

// The times of an Untainter.
const (
	// readyEvery is how often Ready is asked while it says no. It asks nobody else.
	readyEvery = time.Second
	// retryFirst and retryMax bound the wait after a failure, which doubles.
	retryFirst = time.Second
	retryMax   = time.Minute
	// lookAgain is how often a node without the taint is looked at: one that is
	// deleted and registers again comes back with it, and its agent may not have
	// noticed.
	lookAgain = 15 * time.Minute
)

// UntainterConfig says whose taint goes, and when. All but Log is required.
type UntainterConfig struct {
	Client *Client
	Node   string       // the name of the node object
	Key    string       // of the taint, with any value and effect
	Ready  func() error // why the node must keep it, or nil; quick
	Log    *slog.Logger
}

// Untainter takes the start-up taint from the own node, the one that kept pods
// away until the agent could serve them.
type Untainter struct {
	cfg UntainterConfig
	log *slog.Logger
}

// NewUntainter makes an Untainter, or tells everything that is wrong with cfg.
func NewUntainter(cfg UntainterConfig) (*Untainter, error) {
	var problems []error
	for name, missing := range map[string]bool{
		"Client": cfg.Client == nil, "Node": cfg.Node == "", "Key": cfg.Key == "", "Ready": cfg.Ready == nil,
	} {
		if missing {
			problems = append(problems, fmt.Errorf("kube: %s is missing", name))
		}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Untainter{cfg: cfg, log: cfg.Log.With(slog.String(logkey.Node, cfg.Node))}, errors.Join(problems...)
}

// Run waits until the node is ready and takes the taint, again and again, as long
// as it fails: until ctx ends, and then it gives nil.
func (u *Untainter) Run(ctx context.Context) error {
	for wait, failures := time.Duration(0), 0; sleep(ctx, wait); {
		if u.cfg.Ready() != nil {
			wait = readyEvery
			continue
		}
		removed, err := u.cfg.Client.Untaint(ctx, u.cfg.Node, u.cfg.Key)
		if removed {
			u.log.Info("start-up taint is removed", slog.String(logkey.Taint, u.cfg.Key))
		}
		if err == nil {
			wait, failures = jittered(lookAgain), 0
			continue
		}
		failures++
		wait = jittered(min(retryFirst<<min(failures-1, 10), retryMax))
		u.failed(ctx, failures, err)
	}
	return nil
}

// failed logs a failure, the first of a row for an operator.
func (u *Untainter) failed(ctx context.Context, failures int, err error) {
	level := slog.LevelDebug
	if failures == 1 && ctx.Err() == nil {
		level = slog.LevelWarn
	}
	u.log.Log(ctx, level, "cannot remove the start-up taint, trying again",
		slog.Int(logkey.Attempt, failures), slog.String(logkey.Error, err.Error()))
}

// jittered gives between three quarters of d and d: agents that saw the same API
// server go must not all come at once when it is back.
func jittered(d time.Duration) time.Duration {
	return d - rand.N(d/4) //nolint:gosec // no secret
}

// sleep waits, and tells whether ctx is still there.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return ctx.Err() == nil
	}
}

// operation is one step of a JSON patch (RFC 6902).
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// Untaint removes every taint with the key from the node, and tells whether there
// was one. Others may change the taints at the same time: then it fails, having
// changed nothing, and wants to be called again.
func (c *Client) Untaint(ctx context.Context, node, key string) (removed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var n corev1.Node
	err = c.others.Get().Resource("nodes").Name(node).Do(ctx).Into(&n)
	if err != nil {
		return false, fmt.Errorf("asking for the node %s: %w", node, err)
	}
	patch := untaintPatch(n.Spec.Taints, key)
	if len(patch) == 0 {
		return false, nil
	}
	body, err := json.Marshal(patch)
	if err != nil {
		return false, fmt.Errorf("writing a patch: %w", err)
	}
	if err := c.others.Patch(types.JSONPatchType).Resource("nodes").Name(node).Body(body).Do(ctx).Error(); err != nil {
		return false, fmt.Errorf("patching the node %s: %w", node, err)
	}
	return true, nil
}

// untaintPatch removes the taints with the key, the last first, so that the
// numbers of the others hold. Each removal is preceded by a test of what stands
// at its number: a list that was changed meanwhile refuses the whole patch. The
// test names key and effect, which are what tells taints apart, and not a
// resource version, which each heartbeat of kubelet would make stale.
func untaintPatch(taints []corev1.Taint, key string) []operation {
	var patch []operation
	for i, taint := range slices.Backward(taints) {
		if taint.Key != key {
			continue
		}
		path := fmt.Sprintf("/spec/taints/%d", i)
		patch = append(patch,
			operation{"test", path + "/key", key},
			operation{"test", path + "/effect", string(taint.Effect)},
			operation{Op: "remove", Path: path})
	}
	return patch
}
