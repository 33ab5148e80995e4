//go:build privileged

package integration_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/status"

	"github.com/closured/closured/tests/agent"
)

const failed = "FailedPrecondition"

// endlessLoop needs time only, and hardly any memory.
const endlessLoop = `let l = builtins.genList (x: x) 1000000; in builtins.foldl' (a: x: builtins.foldl' (b: y: y) 0 l) 0 l`

// expression is the volume of pod number i with an expression.
func expression(i int, text string) agent.Volume {
	return volume(i, map[string]string{"nixExpr": text})
}

// evaluating starts an agent whose evaluations have little time and memory.
func evaluating(t *testing.T, flags ...string) node {
	t.Helper()
	args := offline("--policy", policyFile(t, allowAll), "--eval-memory", "512Mi", "--eval-timeout", "8s")
	return start(t, agent.Config{PackageSet: packageSet(t, sourceSet), Args: append(args, flags...)})
}

// escapes are expressions that reach for the host. HOST is a folder with a file
// named secret, URL a server, OTHER a store path of somebody else, STATE the state directory.
var escapes = map[string]string{
	"the shadow file":                 `builtins.readFile /etc/shadow`,
	"the shadow file by its name":     `builtins.readFile "/etc/shadow"`,
	"a file of the host":              `builtins.readFile "HOST/secret"`,
	"a search path":                   `builtins.readFile <nixpkgs/../../../etc/shadow>`,
	"a folder of the host":            `builtins.readDir "/"`,
	"the state directory":             `builtins.readDir "STATE"`,
	"the settings of the daemon":      `builtins.readFile "STATE/etc/nix/nix.conf"`,
	"the environment of the process":  `builtins.readFile "/proc/self/environ"`,
	"the environment":                 `throw "PATH=${builtins.getEnv "PATH"} HOME=${builtins.getEnv "HOME"}"`,
	"a host file as a source":         `derivation { name = "x"; system = builtins.currentSystem; builder = "/bin/sh"; src = /. + "HOST/secret"; }`,
	"a copy of a folder":              `builtins.path { path = "HOST"; name = "x"; }`,
	"an import of the host":           `import (/. + "HOST/secret")`,
	"a server on the node":            `builtins.readFile (builtins.fetchurl "URL")`,
	"a file URL":                      `builtins.readFile (builtins.fetchurl "file://HOST/secret")`,
	"a tarball on the node":           `import (builtins.fetchTarball "URL/x.tar.gz")`,
	"a folder as a git repository":    `builtins.fetchGit "HOST"`,
	"somebody else's store path":      `builtins.readFile (builtins.storePath "OTHER")`,
	"somebody else's path, by a name": `builtins.readFile "OTHER"`,
	"the store, where it really is":   `builtins.readDir "STATE/nix/store"`,
	"a program":                       `builtins.exec [ "/bin/sh" "-c" "cat HOST/secret" ]`,
}

func TestFault34EvaluationThatReachesForTheHost(t *testing.T) {
	t.Parallel()
	n := evaluating(t)
	host := filepath.Join(n.Dir(), "host")
	makeDir(t, host)
	writeFile(t, filepath.Join(host, "secret"), "canary-evaluation")
	visits, url := countVisits(t)
	replace := strings.NewReplacer("HOST", host, "URL", url, "STATE", n.StateDir(), "OTHER", n.textClosure(1, "private"))
	i := 0
	for name, text := range escapes {
		i++
		v := expression(i, replace.Replace(text))
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			message := n.as(t).refused(v, failed, "the expression")
			for _, secret := range []string{"canary", "root:", "PATH=/", "HOME=/"} {
				if strings.Contains(message, secret) {
					t.Errorf("the refusal tells %q: %s", secret, message)
				}
			}
		})
	}
	t.Cleanup(func() { // after the parallel ones
		if visits() > 0 {
			t.Errorf("a server on the node had %d visits", visits())
		}
	})
}

// countVisits listens on the node's loopback.
func countVisits(t *testing.T) (visits func() int, url string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	count := make(chan int, 1)
	count <- 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			count <- <-count + 1
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-done
	})
	visits = func() int {
		n := <-count
		count <- n
		return n
	}
	return visits, "http://" + listener.Addr().String()
}

func TestFault35ImportFromDerivation(t *testing.T) {
	t.Parallel()
	const imports = `pkgs: builtins.seq (builtins.readDir pkgs.other) pkgs.hello`
	n := evaluating(t)
	n.refused(expression(1, imports), failed, "import from derivation", "the expression")
	if built := n.metric("closured_realisations_total"); built != 0 {
		t.Errorf("%v builds ran", built)
	}
	n.requireNothing()

	allowed := evaluating(t, "--allow-import-from-derivation")
	v := expression(1, imports)
	allowed.publish(v)
	allowed.requireClosure(v, allowed.result(v))
	allowed.unpublish(v)
}

func TestFault36EvaluationsWithoutEnd(t *testing.T) { //nolint:tparallel // one agent, and each looks at what is left
	t.Parallel()
	n := evaluating(t)
	tests := map[string]struct{ text, words string }{
		"infinite recursion":        {`let x = x; in x`, "infinite recursion"},
		"deep recursion":            {`let f = x: 1 + f (x + 1); in f 1`, "stack overflow"},
		"a list of 100 GB":          {`builtins.length (builtins.genList (x: x) 12500000000)`, "more than 512 MiB of memory"},
		"a list that grows":         {`builtins.foldl' (a: x: a ++ [ x a ]) [ ] (builtins.genList (x: x) 1000000)`, "more than 512 MiB of memory"},
		"a loop without end":        {endlessLoop, "longer than 8 s"},
		"a huge message":            {`let f = n: s: if n == 0 then s else f (n - 1) (s + s); in throw (f 23 "x")`, "64 KiB"},
		"a flood of traces":         {`builtins.foldl' (a: x: builtins.trace "y" a) (throw "the end") (builtins.genList (x: x) 200000)`, "the expression"},
		"more derivations than one": {`builtins.genList (n: derivation { name = "x${toString n}"; system = "s"; builder = "b"; }) 1100`, "1100 derivations"},
		"no derivation":             {`{ a = 1; }`, "set"},
		"nothing":                   {`[ ]`, "the expression"},
		"a syntax error":            {`{ a = `, "syntax error"},
	}
	i := 0
	for name, test := range tests {
		i++
		v := expression(i, test.text)
		t.Run(name, func(t *testing.T) {
			message := n.as(t).refused(v, failed, "the expression")
			if !strings.Contains(message, test.words) || len(message) > 400 {
				t.Errorf("the message of %d bytes is %q, want %q in it", len(message), message, test.words)
			}
		})
	}
	n.requireIdle()
	n.requireNothing()
}

// TestFault36OthersGoOnBesideAnEndlessEvaluation: two pods get their volumes
// while a third one's expression runs into its limit, which is then remembered.
func TestFault36OthersGoOnBesideAnEndlessEvaluation(t *testing.T) {
	t.Parallel()
	n := evaluating(t)
	path := agent.StorePath(2, n.textClosure(5, "beside"))
	endless := expression(1, endlessLoop)
	answer := make(chan error, 1)
	go func() { answer <- n.Publish(t.Context(), endless) }()
	eventually(t, 20*time.Second, "the evaluation", func() error {
		if n.metric("closured_evaluations_total") == 1 {
			return nil
		}
		return errNotYet
	})
	began := time.Now()
	n.publish(path)
	n.publish(expression(3, "pkgs: pkgs.hello"))
	select {
	case err := <-answer:
		t.Errorf("the endless one ended before the others, which took %s: %v", time.Since(began), err)
		answer <- err
	default:
	}
	first := requireRefusal(t, <-answer, failed, "longer than 8 s")
	n.requireIdle()

	evaluations := n.metric("closured_evaluations_total")
	again := n.Publish(t.Context(), endless)
	if status.Convert(again).Message() != first || n.metric("closured_evaluations_total") != evaluations {
		t.Errorf("the failure is not remembered: %v after %v", again, first)
	}
	n.requireVolumes(2)
	if _, err := os.Lstat(n.Target(endless)); err == nil {
		t.Error("the failed volume has a folder")
	}
}
