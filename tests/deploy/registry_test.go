package deploy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// TestTheRegistryIsOnLoopbackOnly: one socket on the node's loopback is all that is
// in the node's network, and without the registry nothing is.
func TestTheRegistryIsOnLoopbackOnly(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		objects  []object
		registry bool
	}{
		"base":                       {kustomize(t, "base"), true},
		"k3s":                        {kustomize(t, "overlays/k3s"), true},
		"CRI-O":                      {kustomize(t, "overlays/crio"), true},
		"nixos":                      {kustomize(t, "overlays/nixos"), true},
		"no registry":                {kustomize(t, "../tests/deploy/testdata/no-registry"), false},
		"chart":                      {chart(t, nil), true},
		"chart with another address": {chart(t, values{"registry": values{"address": "127.1.2.3:80"}}), true},
		"chart without":              {chart(t, values{"registry": values{"enabled": false}}), false},
	} {
		for _, pod := range pods(t, test.objects) {
			checkNetwork(t, name, pod, test.registry)
		}
	}
}

func checkNetwork(t *testing.T, name string, pod corev1.PodSpec, registry bool) {
	t.Helper()
	agent := pod.Containers[0]
	var args []any
	for _, a := range agent.Args {
		args = append(args, a)
	}
	effective, _ := effective(args).([]string)
	says := func(prefix string) bool {
		return slices.ContainsFunc(effective, func(a string) bool { return strings.HasPrefix(a, prefix) })
	}
	if pod.HostNetwork {
		t.Errorf("%s: the pod is on the node's network, with its builders", name)
	}
	if registry != says("--registry-address=127.") {
		t.Errorf("%s: the flags are %q", name, effective)
	}
	checkNamespace(t, name, pod, registry)
	if !registry && (!says("--registry-address=") || !says("--containerd-certs-dir=")) {
		t.Errorf("%s: the flags are %q, and the defaults serve images", name, effective)
	}
	for _, p := range agent.Ports {
		if p.HostPort != 0 {
			t.Errorf("%s: the port %+v", name, p)
		}
	}
}

// checkNamespace looks for the node's network namespace where the flag says.
func checkNamespace(t *testing.T, name string, pod corev1.PodSpec, registry bool) {
	t.Helper()
	var source string
	for _, v := range pod.Volumes {
		if v.HostPath != nil && strings.HasPrefix(v.HostPath.Path, "/proc") {
			source = v.Name + " " + v.HostPath.Path
		}
	}
	if want := "node-namespaces /proc/1/ns"; registry != (source == want) || !registry && source != "" {
		t.Errorf("%s: what shows the node's namespaces is %q", name, source)
	}
	for _, m := range pod.Containers[0].VolumeMounts {
		flag := "--registry-netns=" + m.MountPath + "/net"
		if m.Name == "node-namespaces" && (!m.ReadOnly || !slices.Contains(pod.Containers[0].Args, flag)) {
			t.Errorf("%s: %q is mounted at %s, read-only %v", name, m.Name, m.MountPath, m.ReadOnly)
		}
	}
}

// TestTheFolderOfContainerdIsWhereTheFlagSays: the file is written at the node's
// own path, and nothing else of containerd's is mounted.
func TestTheFolderOfContainerdIsWhereTheFlagSays(t *testing.T) {
	t.Parallel()
	for name, objects := range map[string][]object{
		"base": kustomize(t, "base"), "k3s": kustomize(t, "overlays/k3s"), "rke2": kustomize(t, "overlays/rke2"),
		"chart": chart(t, values{"registry": values{"certsDir": "/srv/certs.d"}}),
	} {
		pod := pods(t, objects)[0]
		flag := ""
		for _, a := range pod.Containers[0].Args {
			if value, ok := strings.CutPrefix(a, "--containerd-certs-dir="); ok {
				flag = value
			}
		}
		var mounted, hosted string
		for _, m := range pod.Containers[0].VolumeMounts {
			if m.Name == "certs" {
				mounted = m.MountPath
			}
		}
		for _, v := range pod.Volumes {
			if v.Name == "certs" {
				hosted = v.HostPath.Path
			}
		}
		if flag == "" || flag != mounted || flag != hosted || !strings.HasSuffix(flag, "/certs.d") {
			t.Errorf("%s: the flag says %q, mounted is %q at %q", name, flag, hosted, mounted)
		}
	}
}

// TestCleanupTakesItsOwnFilesOnly runs the script of deploy/cleanup on folders of
// this test.
func TestCleanupTakesItsOwnFilesOnly(t *testing.T) {
	t.Parallel()
	const marker = "# Written by closured."
	source, err := os.ReadFile("../../registry/hosts/render.go")
	if err != nil || !strings.Contains(string(source), fmt.Sprintf("Marker = %q", marker)) {
		t.Fatalf("the program writes another marker: %v", err)
	}
	root := t.TempDir()
	lay := func(path, text string) {
		path = filepath.Join(root, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	lay("certs/nix.internal/hosts.toml", marker+"\nserver = 1\n")
	lay("certs/nix.internal/.hosts.toml.closured-new", "half")
	lay("certs/old.internal:5000/hosts.toml", marker)
	lay("certs/old.internal:5000/ca.crt", "theirs")
	lay("certs/docker.io/hosts.toml", "server = 1\n"+marker+"\n")
	lay("certs/empty/hosts.toml", "")
	lay("certs/quay.io/hosts.toml", marker+" not\n")
	lay("linked", marker+"\n")
	lay("certs/linked/ca.crt", "theirs")
	lay("state/nix/store/x", "x")
	lay("csi/csi.sock", "")
	if err := os.Symlink(filepath.Join(root, "linked"), filepath.Join(root, "certs/linked/hosts.toml")); err != nil {
		t.Fatal(err)
	}

	runCleanup(t, root)

	var left []string
	err = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			left = append(left, strings.TrimPrefix(path, root+"/"))
		}
		return err
	})
	want := []string{
		"certs/docker.io/hosts.toml", "certs/empty/hosts.toml", "certs/linked/ca.crt", "certs/linked/hosts.toml", "certs/old.internal:5000/ca.crt",
		"certs/quay.io/hosts.toml", "cleaned", "linked",
	}
	if err != nil || !slices.Equal(left, want) {
		t.Errorf("left is %q: %v", left, err)
	}
	if _, err := os.Stat(filepath.Join(root, "certs/nix.internal")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the empty folder is there still: %v", err)
	}
}

// runCleanup runs the script with its folders below root until it says that it is
// done.
func runCleanup(t *testing.T, root string) {
	t.Helper()
	script := pods(t, kustomize(t, "cleanup"))[0].Containers[0].Args[0]
	script = strings.NewReplacer(
		"/state", root+"/state", "/csi", root+"/csi", "/certs", root+"/certs", "/tmp/cleaned", root+"/cleaned", "/dev/null", "/dev/null",
		"closured-probe", "false",
	).Replace(script)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, "/bin/sh", "-c", script)
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	end := func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGTERM) }
	command.Cancel = end
	command.WaitDelay = 5 * time.Second
	var says strings.Builder
	command.Stdout, command.Stderr = &says, &says
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	for done := false; !done && ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
		_, err := os.Stat(filepath.Join(root, "cleaned"))
		done = err == nil
	}
	_ = end()
	if err := command.Wait(); err != nil || !strings.Contains(says.String(), "cleaned") {
		t.Errorf("the script: %v\n%s", err, says.String())
	}
}
