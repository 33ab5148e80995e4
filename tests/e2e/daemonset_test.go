//go:build e2e

package e2e

import (
	"context"
	"errors"
)

// daemonSet is the agent as it is deployed.
type daemonSet struct{}

func (*daemonSet) wantsDriver() bool               { return false }
func (*daemonSet) start(ctx context.Context) error { return errors.New("not yet") }
func (*daemonSet) stop(ctx context.Context) error  { return errors.New("not yet") }
func (*daemonSet) log() string                     { return "" }
func (*daemonSet) close() error                    { return nil }
