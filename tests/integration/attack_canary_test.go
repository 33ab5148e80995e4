//go:build privileged

package integration_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/status"

	"github.com/closured/closured/internal/logtest"
	"github.com/closured/closured/tests/agent"
)

// watchFor looks all the time for a secret in the arguments and environments of
// what the agent has started. The function ends that, and gives what was found. A
// child has the agent's own arguments until it has become another program.
func watchFor(n node, secret string) (found func() []string) {
	end := make(chan struct{})
	var seen []string
	looks := 0
	own, _ := readProcess(filepath.Join("/proc", strconv.Itoa(n.PID())))
	var watcher sync.WaitGroup
	watcher.Go(func() {
		for ; !isClosed(end); looks++ {
			for _, p := range n.descendants() {
				if p.args != own.args && strings.Contains(p.args, secret) || strings.Contains(p.env, secret) {
					seen = append(seen, p.String())
				}
			}
			time.Sleep(time.Millisecond)
		}
	})
	found = sync.OnceValue(func() []string {
		close(end)
		watcher.Wait()
		if looks == 0 {
			return []string{"nobody looked"}
		}
		return seen
	})
	n.t.Cleanup(func() { found() })
	return found
}

// requireSecret checks that the secret is in no text, no metric and no process.
func (n node) requireSecret(secret string, processes, texts []string) {
	n.t.Helper()
	for _, p := range processes {
		n.t.Errorf("in the arguments or the environment of a process: %s", p)
	}
	metrics, err := n.Get(n.t.Context(), "/metrics")
	if err != nil {
		n.t.Fatal(err)
	}
	ready, err := n.Get(n.t.Context(), "/readyz")
	if err != nil {
		n.t.Fatal(err)
	}
	for _, text := range append(texts, metrics, ready, n.Log()) {
		if at := strings.Index(text, secret); at >= 0 {
			n.t.Errorf("the secret stands in …%s", text[max(0, at-300):min(len(text), at+80)])
		}
	}
}

// TestFault47CanaryInARequest puts a secret wherever a request may carry one, into
// requests that succeed and that are refused in different places. The log is at its
// most talkative level.
func TestFault47CanaryInARequest(t *testing.T) {
	t.Parallel()
	const canary = "canary-47-secret"
	var log logtest.Buffer
	n := start(t, agent.Config{
		PackageSet: packageSet(t, sourceSet), Log: &log,
		Args: offline("--policy", policyFile(t, allowAll), "--log-level", "debug", "--eval-timeout", "20s"),
	})
	watch := watchFor(n, canary)
	var texts []string
	for i, attributes := range []map[string]string{
		{"packages": "hello"},
		{"packages": "hello", "token": canary},
		{"flakeRef": "git+https://user:" + canary + "@git.invalid/x#y"},
		{"flakeRef": "https://git.invalid/x.tar.gz?token=" + canary + "#y"},
		{"nixExpr": "pkgs: let password = \"" + canary + "\"; in pkgs.hello"},
		{"nixExpr": "pkgs: let password = \"" + canary + "\"; in pkgs.missing"},
		{"nixExpr": "# " + canary + "\n" + `builtins.readFile "/etc/shadow"`},
		{"storePath": valid},
		{},
	} {
		v := volume(i, attributes)
		if err := n.Prepare(v); err != nil {
			t.Fatal(err)
		}
		req := n.PublishRequest(v)
		req.VolumeContext["csi.storage.k8s.io/serviceAccount.tokens"] = `{"":{"token":"` + canary + `","expirationTimestamp":"2030-01-01T00:00:00Z"}}`
		req.Secrets = map[string]string{"password": canary}
		_, err := n.Node().NodePublishVolume(t.Context(), req)
		if (err == nil) != (i == 0 || i == 4) {
			t.Errorf("%q gave %v", attributes, err)
		}
		texts = append(texts, status.Convert(err).Message())
		n.unpublish(v)
	}
	n.requireSecret(canary, watch(), append(texts, log.String()))
	if log.String() == "" || !strings.Contains(log.String(), "[redacted]") {
		t.Error("the log says nothing of the requests")
	}
	n.requireNowhere(canary)
}

// requireNowhere checks that no file of the state directory but the store's own
// keeps the secret.
func (n node) requireNowhere(secret string) {
	n.t.Helper()
	err := filepath.WalkDir(n.StateDir(), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == filepath.Join(n.StateDir(), "nix", "store") {
			return fs.SkipDir
		}
		if !entry.Type().IsRegular() {
			return nil
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(secret)) {
			n.t.Errorf("the secret stands in %s", path)
		}
		return err
	})
	if err != nil {
		n.t.Error(err)
	}
}
