package nixcli

import (
	"context"
	"log/slog"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	backoffFirst = 100 * time.Millisecond // before the daemon's first restart
	backoffLimit = 10 * time.Second       // before any restart
	stableTime   = 30 * time.Second       // a daemon that lived so long is restarted at once
)

// Run supervises the own daemon and runs the self-test once a daemon answers.
// It returns nil when ctx has ended and the daemon is gone; call it once. With
// somebody else's daemon there is only the self-test to run.
func (s *Store) Run(ctx context.Context) error {
	var g errgroup.Group
	if s.cfg.DaemonSocket == "" {
		g.Go(func() error { s.supervise(ctx); return nil })
	}
	g.Go(func() error { s.testWhenReady(ctx); return nil })
	err := g.Wait()
	<-ctx.Done()
	return err
}

// supervise keeps a daemon running until ctx ends.
func (s *Store) supervise(ctx context.Context) {
	backoff := backoffFirst
	for ctx.Err() == nil {
		started := time.Now()
		last, err := s.runDaemon(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(started) > stableTime {
			backoff = backoffFirst
		}
		s.log.Error("nix daemon ended", slog.Any("error", err), slog.String("lastLines", strings.Join(last, " | ")),
			slog.Float64("restartInSeconds", backoff.Seconds()))
		if !sleep(ctx, backoff) {
			return
		}
		backoff = min(2*backoff, backoffLimit)
	}
}

// runDaemon runs one daemon to its end and gives its last lines.
func (s *Store) runDaemon(ctx context.Context) ([]string, error) {
	runtime.LockOSThread() // for the parent-death signal, see run
	defer runtime.UnlockOSThread()
	var last tail
	stderr := &lineWriter{emit: func(line []byte) {
		text := cut(redact(string(line)), maxMessage)
		last.add(text)
		s.log.Debug("nix daemon", slog.String("line", text))
	}}
	remote := "NIX_REMOTE=local?root=" + s.cfg.StoreRoot
	if s.cfg.StoreRoot == "/" {
		remote = "NIX_REMOTE=local"
	}
	cmd := s.prepare(ctx, command{
		program: "nix-daemon",
		env:     s.env(remote, "NIX_DAEMON_SOCKET_PATH="+s.cfg.socket()),
	})
	cmd.Stderr = stderr
	// Kindly, so that it can remove its socket; after waitDelay it is killed.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	err := cmd.Run()
	stderr.flush()
	return last.lines, err
}

// sleep waits, and tells whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// logLines is how many lines of a log a message repeats.
const logLines = 20

// tail keeps the last logLines lines.
type tail struct{ lines []string }

func (t *tail) add(line string) {
	if len(t.lines) == logLines {
		copy(t.lines, t.lines[1:])
		t.lines = t.lines[:logLines-1]
	}
	t.lines = append(t.lines, line)
}
