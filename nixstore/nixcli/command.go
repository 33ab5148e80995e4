package nixcli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

const (
	// waitDelay is how long we wait for a pipe that a dead program's child keeps open.
	waitDelay = 2 * time.Second
	// stdoutMax bounds what we keep of a program's output: store paths, in bytes.
	stdoutMax = 1 << 20
	// lineMax bounds one line of a program's messages, in bytes; the rest is dropped.
	lineMax = 64 << 10
)

// command is one run of a program of Nix.
type command struct {
	program string
	args    []string
	env     []string
	onLine  func(line []byte) // called for each line of stderr, from one goroutine; nil: dropped
}

// result is what a program gave.
type result struct {
	stdout []byte
	exit   int // -1: ended by a signal
}

// run runs a command to its end, or until ctx ends; then its process group is
// killed. A program that fails is no error: see result.exit. The error is ctx's
// when ctx ended, and otherwise says that the program could not run.
func (s *Store) run(ctx context.Context, c command) (result, error) {
	// The kernel's parent-death signal is sent when the *thread* that started the
	// child ends, prctl(2): keep it until the child is gone.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	stdout := &boundedBuffer{max: stdoutMax}
	stderr := &lineWriter{emit: c.onLine}
	cmd := s.prepare(ctx, c)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	err := cmd.Run()
	stderr.flush()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // the program itself has ended well; its child held the pipe
	}
	if ctx.Err() != nil && err != nil {
		return result{}, context.Cause(ctx)
	}
	res := result{stdout: stdout.buf.Bytes()}
	var exitErr *exec.ExitError
	switch {
	case err == nil:
		return res, nil
	case errors.As(err, &exitErr):
		res.exit = exitErr.ExitCode()
		return res, nil
	}
	return result{}, fmt.Errorf("running %s: %w", c.program, err)
}

func (s *Store) prepare(ctx context.Context, c command) *exec.Cmd {
	program := c.program
	if s.cfg.BinDir != "" {
		program = filepath.Join(s.cfg.BinDir, program)
	}
	cmd := exec.CommandContext(ctx, program, c.args...)
	cmd.Env = c.env
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error {
		err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		if errors.Is(err, syscall.ESRCH) {
			return os.ErrProcessDone
		}
		return err
	}
	cmd.WaitDelay = waitDelay
	return cmd
}

// boundedBuffer keeps the first max bytes.
type boundedBuffer struct {
	buf bytes.Buffer
	max int
}

// Write never fails: a full buffer must not end the program with a broken pipe.
func (b *boundedBuffer) Write(p []byte) (int, error) {
	if room := b.max - b.buf.Len(); room > 0 {
		b.buf.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// lineWriter cuts a stream in lines of at most lineMax bytes.
type lineWriter struct {
	emit func([]byte)
	line []byte
}

// Write never fails, as that of boundedBuffer.
func (w *lineWriter) Write(p []byte) (int, error) {
	n := len(p)
	for {
		i := bytes.IndexByte(p, '\n')
		part := p
		if i >= 0 {
			part = p[:i]
		}
		if room := lineMax - len(w.line); room > 0 {
			w.line = append(w.line, part[:min(room, len(part))]...)
		}
		if i < 0 {
			return n, nil
		}
		w.flush()
		p = p[i+1:]
	}
}

// flush emits the line begun so far.
func (w *lineWriter) flush() {
	if w.emit != nil && len(w.line) > 0 {
		w.emit(w.line)
	}
	w.line = w.line[:0]
}
