package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/tests/agent"
)

const (
	bin        = "/nix/var/result/bin/"
	answerWait = 10 * time.Second // how long redis may take to answer
)

// pod is a root of its own, in namespaces of its own for mounts, processes and
// names. The network is the machine's, so that the demo needs to set none up.
type pod struct{ root string }

// podOfVolume has nothing but a volume at /nix and an empty /tmp.
func podOfVolume(a *agent.Agent, volume agent.Volume) (pod, error) {
	p := pod{filepath.Join(a.Dir(), "pod")}
	if err := os.Mkdir(p.root, 0o755); err != nil {
		return pod{}, err
	}
	if err := unix.Mount("tmpfs", p.root, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=64m"); err != nil {
		return pod{}, fmt.Errorf("mounting the pod's root: %w", err)
	}
	for _, dir := range []string{"nix", "tmp"} {
		if err := os.Mkdir(filepath.Join(p.root, dir), 0o777); err != nil {
			return pod{}, err
		}
	}
	if err := unix.Mount(a.Target(volume), filepath.Join(p.root, "nix"), "", unix.MS_BIND, ""); err != nil {
		return pod{}, fmt.Errorf("mounting the volume at /nix: %w", err)
	}
	return p, nil
}

// unmount takes the root of podOfVolume away; its processes must have ended.
func (p pod) unmount() error {
	return errors.Join(
		unix.Unmount(filepath.Join(p.root, "nix"), 0),
		unix.Unmount(p.root, 0),
		os.Remove(p.root))
}

// command gives a command that runs inside, and dies with the context or with
// this program.
func (p pod) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + bin, "HOME=/tmp"}
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Chroot: p.root, Setpgid: true, Pdeathsig: syscall.SIGKILL,
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
	}
	return cmd
}

// show runs a command inside and prints it with what it says.
func (p pod) show(ctx context.Context, program string, args ...string) (string, error) {
	out, err := p.command(ctx, bin+program, args...).CombinedOutput()
	said := strings.TrimSpace(string(out))
	fmt.Printf("  $ %s %s\n    %s\n", program, strings.Join(args, " "), strings.ReplaceAll(said, "\n", "\n    "))
	if err != nil {
		return "", fmt.Errorf("running %s in the pod: %w: %s", program, err, said)
	}
	return said, nil
}

// useVolume serves redis out of a root that has nothing but the volume.
func useVolume(ctx context.Context, a *agent.Agent, volume agent.Volume) (err error) {
	p, err := podOfVolume(a, volume)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.unmount()) }()
	heading("A root with nothing but that volume")
	if err := p.list(); err != nil {
		return err
	}
	return p.serve(ctx)
}

// list prints what is in the root.
func (p pod) list() error {
	entries, err := os.ReadDir(p.root)
	if err != nil {
		return err
	}
	all := make([]string, len(entries))
	for i, e := range entries {
		all[i] = "/" + e.Name()
	}
	line("all its folders", "%s", strings.Join(all, " "))
	return nil
}

// serve runs redis-server in the pod and talks to it by the programs there.
func (p pod) serve(ctx context.Context) error {
	port, err := freePort(ctx)
	if err != nil {
		return err
	}
	redis, end := context.WithCancel(ctx)
	server := p.command(redis, bin+"redis-server",
		"--bind", "127.0.0.1", "--port", port, "--save", "", "--dir", "/tmp", "--loglevel", "warning")
	var log strings.Builder
	server.Stdout, server.Stderr = &log, &log
	begin := time.Now()
	if err := server.Start(); err != nil {
		end()
		return fmt.Errorf("starting redis-server: %w", err)
	}
	err = answers(ctx, port)
	if err == nil {
		line("redis-server", "answers after %s", since(begin))
		err = p.talk(ctx, port)
	}
	end()
	ended := server.Wait() // killed by end, or by itself
	if err != nil {
		return fmt.Errorf("%w\nredis-server: %w\n%s", err, ended, log.String())
	}
	return nil
}

// answers waits until something listens.
func answers(ctx context.Context, port string) error {
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	var dialer net.Dialer
	for {
		conn, err := dialer.DialContext(ctx, "tcp", "127.0.0.1:"+port)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("redis-server does not answer within %s: %w", answerWait, err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// talk uses each program of the closure.
func (p pod) talk(ctx context.Context, port string) error {
	const greeting = "hello from a closure"
	for _, step := range []struct {
		args []string
		want string
	}{
		{[]string{"redis-cli", "-p", port, "SET", "greeting", greeting}, "OK"},
		{[]string{"redis-cli", "-p", port, "GET", "greeting"}, greeting},
		{[]string{"curl", "--silent", "--max-time", "5", "gopher://127.0.0.1:" + port + "/_GET%20greeting%0D%0AQUIT%0D%0A"}, greeting},
		{[]string{"jq", ".root", "/nix/var/closure.json"}, "/nix/store/"},
	} {
		said, err := p.show(ctx, step.args[0], step.args[1:]...)
		if err != nil {
			return err
		}
		if !strings.Contains(said, step.want) {
			return fmt.Errorf("%s said %q, not %q", step.args[0], said, step.want)
		}
	}
	return nil
}

func freePort(ctx context.Context) (string, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, errors.Join(err, l.Close())
}
