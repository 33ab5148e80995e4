//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// agent is the node's agent in one of its forms.
type agent interface {
	// start brings it up and waits until it is ready.
	start(ctx context.Context) error
	// stop ends it as its owner would, and waits until it is gone.
	stop(ctx context.Context) error
	// packages is the folder of the package set as the agent sees it.
	packages() string
	// wantsDriver tells whether the CSIDriver object is for the tests to make.
	wantsDriver() bool
	// address is where it serves its metrics.
	address(ctx context.Context) (string, error)
	// log gives the end of what it said, or with all what there is of it.
	log(all bool) string
	// close takes away what the form needs.
	close() error
}

func newAgent(context.Context) (agent, error) {
	switch form := os.Getenv("E2E_AGENT"); form {
	case "process":
		return &process{dir: filepath.Join(w.dir, "run", "agent"), socket: filepath.Join(kubeletDir, "plugins", driverName, "csi.sock")}, nil
	case "", "daemonset":
		return &daemonSet{}, nil
	default:
		return nil, fmt.Errorf("E2E_AGENT is %q, want process or daemonset", form)
	}
}

// flags are what both forms have in common. The folder of packages is where
// tests/e2e/run made it.
func flags(packages, policy string) []string {
	return []string{
		"--state-dir", stateDir, "--kubelet-dir", kubeletDir, "--package-set", packages, "--policy", policy,
		"--nix-option", "substituters=", "--node-name", nodeName,
	}
}

const policyText = `
rules:
- namespaces: ["dev-*"]
  sources: [storePath, packages, flakeRef, nixExpr]
  flakes: ["path:/**"]
- namespaces: ["*"]
  sources: [storePath, packages]
`

// process is the agent as a process of the node.
type process struct {
	dir    string // of its log and its policy
	socket string
	cmd    *exec.Cmd
	ended  chan struct{}
}

func (p *process) wantsDriver() bool { return true }

func (p *process) packages() string { return filepath.Join(w.dir, "packages") }

func (p *process) start(ctx context.Context) error {
	if p.cmd != nil {
		return nil
	}
	if err := errors.Join(os.MkdirAll(p.dir, 0o755), os.MkdirAll(filepath.Dir(p.socket), 0o755)); err != nil {
		return err
	}
	policy := filepath.Join(p.dir, "policy.yaml")
	if err := os.WriteFile(policy, []byte(policyText), 0o644); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(p.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	args := append([]string{"--endpoint", "unix://" + p.socket}, flags(p.packages(), policy)...)
	cmd := exec.Command(filepath.Join(w.dir, "bin", "closured"), args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	p.cmd, p.ended = cmd, make(chan struct{})
	go func(ended chan struct{}) {
		defer close(ended)
		_ = cmd.Wait()
	}(p.ended)
	return wait(ctx, time.Minute, "the agent to be ready", func() error { return get(ctx, "http://127.0.0.1:9858/readyz") })
}

func (p *process) stop(context.Context) error {
	if p.cmd == nil {
		return nil
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.ended:
		p.cmd = nil
		return nil
	case <-time.After(30 * time.Second):
		return errors.New("the agent does not end after SIGTERM")
	}
}

func (p *process) address(context.Context) (string, error) { return "127.0.0.1:9858", nil }

func (p *process) log(all bool) string {
	data, _ := os.ReadFile(filepath.Join(p.dir, "log"))
	if !all {
		data = data[max(0, len(data)-8<<10):]
	}
	return string(data)
}

func (p *process) close() error { return p.stop(context.Background()) }

// agentPIDs gives the processes of the node that run the agent itself: neither
// the Nix that it started nor evaluators.
func agentPIDs() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		data, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil {
			continue // it has ended
		}
		words := strings.Split(string(data), "\x00")
		if filepath.Base(words[0]) == "closured" && strings.Contains(string(data), "--kubelet-dir") {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// kill ends the agent by SIGKILL and waits until the process is gone. A
// DaemonSet brings it back by itself, a process is started again.
func kill(ctx context.Context) error {
	pids, err := agentPIDs()
	if err != nil {
		return err
	}
	if len(pids) != 1 {
		return fmt.Errorf("the node has %d agents: %v", len(pids), pids)
	}
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		return err
	}
	err = wait(ctx, 10*time.Second, "the agent to be gone", func() error {
		if err := syscall.Kill(pids[0], 0); err == nil {
			return fmt.Errorf("process %d is there", pids[0])
		}
		return nil
	})
	if p, ok := w.agent.(*process); ok && err == nil {
		<-p.ended
		p.cmd = nil
	}
	return err
}
