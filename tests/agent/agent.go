// Package agent runs closured as a real process beside a folder that stands for
// kubelet's, and calls it as kubelet would: for integration tests, the demo and
// the benchmark.
//
// It replaces nothing of the agent and knows it by its flags, its socket, its
// HTTP endpoints and the mount table only. Functions return errors, so that
// plain programs can use them; [Run] is for tests.
//
// An Agent may be used by several goroutines, but is started, killed and closed
// by one. Close ends the process that it started, takes away every mount below
// its folder and then the folder. The agent's process dies with this one; what
// a kill -9 of this one leaves are mounts and a folder /tmp/cl-*.
package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/closured/closured/internal/mountpoints"
	"github.com/closured/closured/internal/nixtest"
)

const (
	readyWait = time.Minute // how long a start may take
	readyPoll = 5 * time.Millisecond
	stopWait  = 30 * time.Second // how long the agent has to end after SIGTERM
)

// Config says how to run the agent. The zero value is fine.
type Config struct {
	Binary     string    // default: Binary()
	Dir        string    // holds state, sockets and kubelet's folder; default: a new one in /tmp that Close removes
	PackageSet string    // --package-set; empty: the program's default
	NoKubelet  bool      // --kubelet-dir "": any target, no registration
	Args       []string  // further flags, last
	Env        []string  // added to the environment
	Log        io.Writer // gets the agent's log too; nil: only [Agent.Log] has it
}

// Agent is closured in a folder of its own. Made by [New], it runs after Start.
type Agent struct {
	cfg     Config
	dir     string
	ownsDir bool
	http    string // address of the HTTP endpoints of the running process
	images  string // address of its registry
	log     tail
	cmd     *exec.Cmd
	ended   chan struct{} // closed when cmd has ended
	waitErr error         // of cmd; read after ended
	conn    *grpc.ClientConn
}

// New prepares the folder of an agent and starts nothing: the store may be filled first.
func New(cfg Config) (*Agent, error) {
	a := &Agent{cfg: cfg, dir: cfg.Dir}
	if cfg.Binary == "" {
		binary, err := Binary()
		if err != nil {
			return nil, err
		}
		a.cfg.Binary = binary
	}
	if a.dir == "" {
		dir, err := os.MkdirTemp("/tmp", "cl-") // short: a socket's path ends at 107 bytes
		if err != nil {
			return nil, err
		}
		a.dir, a.ownsDir = dir, true
	}
	// unprivileged evaluators go through these
	err := os.Chmod(a.dir, 0o755)
	for _, d := range []string{a.StateDir(), filepath.Join(a.KubeletDir(), "pods"), filepath.Join(a.KubeletDir(), "plugins_registry")} {
		err = errors.Join(err, os.MkdirAll(d, 0o755))
	}
	if err != nil {
		return nil, errors.Join(err, a.Close())
	}
	// A restarted agent is there again at once; the default would wait a second and more.
	quick := grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1, MaxDelay: 5 * time.Millisecond}}
	a.conn, err = grpc.NewClient("unix://"+a.Socket(),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithConnectParams(quick))
	if err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

// Run gives tb a running agent, which is closed when tb ends. After a failed
// test the end of the agent's log is shown.
func Run(tb testing.TB, cfg Config) *Agent {
	tb.Helper()
	nixtest.Require(tb)
	a, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("the agent's log:\n%s", a.Log())
		}
		if err := a.Close(); err != nil {
			tb.Errorf("closing the agent: %v", err)
		}
	})
	if err := a.Start(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	return a
}

// Start starts the process and waits until it is ready. ctx bounds the wait, not
// the process.
func (a *Agent) Start(ctx context.Context) error {
	if a.Running() {
		return errors.New("the agent runs already")
	}
	var err error
	if a.http, err = freeAddress(ctx); err != nil {
		return err
	}
	if a.images, err = freeAddress(ctx); err != nil {
		return err
	}
	kubelet := a.KubeletDir()
	if a.cfg.NoKubelet {
		kubelet = ""
	}
	args := []string{
		"--endpoint", "unix://" + a.Socket(), "--state-dir", a.StateDir(), "--kubelet-dir", kubelet,
		"--http-address", a.http, "--node-name", "node", "--registry-address", a.images, "--containerd-certs-dir", "",
	}
	if a.cfg.PackageSet != "" {
		args = append(args, "--package-set", a.cfg.PackageSet)
	}
	if err := a.spawn(append(args, a.cfg.Args...)); err != nil {
		return err
	}
	err = a.waitReady(ctx)
	if err == nil {
		err = a.probe(ctx)
	}
	if err != nil {
		return errors.Join(err, a.Kill())
	}
	return nil
}

// probe waits until calls reach the new process: the connection of an earlier life
// may not know yet that it is dead, and takes a call along when it learns.
func (a *Agent) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	for {
		_, err := a.Identity().Probe(ctx, &csi.ProbeRequest{}, grpc.WaitForReady(true))
		if err == nil || status.Code(err) != codes.Unavailable || !a.Running() {
			return err
		}
	}
}

func (a *Agent) spawn(args []string) error {
	cmd := exec.Command(a.cfg.Binary, args...) //nolint:noctx // it outlives every call; Close ends it
	cmd.Env = append(os.Environ(), a.cfg.Env...)
	var out io.Writer = &a.log
	if a.cfg.Log != nil {
		out = io.MultiWriter(out, a.cfg.Log)
	}
	cmd.Stdout, cmd.Stderr = out, out
	// A group of its own: Ctrl-C on the demo must not reach it before the demo has unpublished.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second
	started, ended := make(chan error, 1), make(chan struct{})
	go func() {
		// The parent-death signal comes when the thread that started the process ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(ended)
		err := cmd.Start()
		started <- err
		if err == nil {
			a.waitErr = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("starting the agent: %w", err)
	}
	a.cmd, a.ended = cmd, ended
	return nil
}

func (a *Agent) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyWait, fmt.Errorf("the agent is not ready after %s", readyWait))
	defer cancel()
	var last error
	for {
		_, last = a.Get(ctx, "/readyz")
		if last == nil {
			return nil
		}
		select {
		case <-a.ended:
			return fmt.Errorf("the agent ended before it was ready: %w\n%s", a.waitErr, a.Log())
		case <-ctx.Done():
			return fmt.Errorf("%w: %w\n%s", context.Cause(ctx), last, a.Log())
		case <-time.After(readyPoll):
		}
	}
}

// Get gives the body of an HTTP endpoint, such as "/metrics"; a status other
// than 200 is an error that holds the body.
func (a *Agent) Get(ctx context.Context, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+a.http+path, nil)
	if err != nil {
		return "", err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(res.Body)
	err = errors.Join(err, res.Body.Close())
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, res.Status, body)
	}
	return string(body), err
}

// Running tells whether the process is there.
func (a *Agent) Running() bool {
	if a.cmd == nil {
		return false
	}
	select {
	case <-a.ended:
		return false
	default:
		return true
	}
}

// PID gives the process id, or 0 when none runs.
func (a *Agent) PID() int {
	if !a.Running() {
		return 0
	}
	return a.cmd.Process.Pid
}

// Kill ends the process by SIGKILL, as the kernel does when memory is short, and
// waits for its end.
func (a *Agent) Kill() error {
	if !a.Running() {
		return nil
	}
	if err := a.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-a.ended
	return nil
}

// Stop ends the process by SIGTERM, as Kubernetes does, and waits for its end.
// An exit code other than 0 is an error.
func (a *Agent) Stop() error {
	if !a.Running() {
		return nil
	}
	if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-a.ended:
		if a.waitErr != nil {
			return fmt.Errorf("the agent ended: %w", a.waitErr)
		}
		return nil
	case <-time.After(stopWait):
		return errors.Join(fmt.Errorf("the agent runs on %s after SIGTERM", stopWait), a.Kill())
	}
}

// Restart kills the process with SIGKILL and starts another on the same state.
func (a *Agent) Restart(ctx context.Context) error {
	return errors.Join(a.Kill(), a.Start(ctx))
}

// Close ends the process, takes away every mount below the folder, and removes
// the folder when New made it. It may be called twice.
func (a *Agent) Close() error {
	err := a.Kill()
	if a.conn != nil {
		err = errors.Join(err, a.conn.Close())
		a.conn = nil
	}
	unmounted := mountpoints.Detach(a.dir)
	if !a.ownsDir || unmounted != nil { // never remove what a mount may show
		return errors.Join(err, unmounted)
	}
	return errors.Join(err, nixtest.RemoveTree(a.dir))
}

// Node gives the CSI node service.
func (a *Agent) Node() csi.NodeClient { return csi.NewNodeClient(a.conn) }

// Identity gives the CSI identity service.
func (a *Agent) Identity() csi.IdentityClient { return csi.NewIdentityClient(a.conn) }

// Dir gives the folder that holds everything of this agent.
func (a *Agent) Dir() string { return a.dir }

// StateDir gives --state-dir, which is the root of the store as well.
func (a *Agent) StateDir() string { return filepath.Join(a.dir, "state") }

// KubeletDir gives the folder that stands for kubelet's.
func (a *Agent) KubeletDir() string { return filepath.Join(a.dir, "kubelet") }

// Socket gives the path of the CSI socket.
func (a *Agent) Socket() string { return filepath.Join(a.dir, "csi.sock") }

// Registry gives the address of the registry, as the host part of an image name.
func (a *Agent) Registry() string { return a.images }

// Log gives the last 64 KiB of what the agent has printed in all its lives.
func (a *Agent) Log() string { return a.log.String() }

// freeAddress gives an address that nobody else comes upon before the agent
// listens on it: a port that was free a moment ago may be another test's by then,
// but nobody else takes this loopback address.
func freeAddress(ctx context.Context) (string, error) {
	var config net.ListenConfig
	ip := net.IPv4(127, byte(1+rand.N(254)), byte(rand.N(256)), byte(1+rand.N(254)))
	l, err := config.Listen(ctx, "tcp", net.JoinHostPort(ip.String(), "0"))
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// tail keeps the end of what is written to it. Safe for concurrent use.
type tail struct {
	mu  sync.Mutex // guards buf
	buf []byte
}

const tailBytes = 64 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - tailBytes; over > 0 {
		t.buf = slices.Delete(t.buf, 0, over)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.ToValidUTF8(string(bytes.TrimSpace(t.buf)), "?")
}
