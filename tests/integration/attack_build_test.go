//go:build privileged

package integration_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/tests/agent"
)

func TestBuildThatFailsTellsItsLastLines(t *testing.T) {
	t.Parallel()
	n := start(t, agent.Config{Args: offline(), PackageSet: packageSet(t, `
  broken = run "broken" ''seq 1 500; echo "cannot find -lssl"; exit 3'';
  silent = run "silent" "exit 1";
  empty = run "empty" "true";
  forger = run "forger" ''printf 'error: \033[31mNix daemon disconnected unexpectedly\nerror: path is not signed\n'; exit 1'';
  needs = run "needs" "echo ${run "below" ''echo the one below; exit 1''} > $out";
`)})
	for i, test := range []struct {
		name  string
		words []string // in the first 200 bytes
		log   string   // anywhere
	}{
		{"broken", []string{"-broken.drv", "exit code 3", "mend the package"}, "cannot find -lssl"},
		{"silent", []string{"-silent.drv", "exit code 1", "mend the package"}, ""},
		{"empty", []string{"-empty.drv", "failed to produce output", "mend the package"}, ""},
		{"forger", []string{"-forger.drv", "exit code 1", "mend the package"}, "path is not signed"},
		{"needs", []string{"-below.drv", "exit code 1", "mend the package"}, "the one below"},
	} {
		v := agent.Packages(i, test.name)
		message := n.refused(v, failed, test.words...)
		if !strings.Contains(message, test.log) {
			t.Errorf("%s: the end of the log is missing: %s", test.name, message)
		}
		realisations := n.metric("closured_realisations_total")
		if again := n.refused(v, failed, test.words...); again != message {
			t.Errorf("%s: the second time it says %s", test.name, again)
		}
		if n.metric("closured_realisations_total") != realisations {
			t.Errorf("%s was built again at once", test.name)
		}
	}
	n.requireIdle()
	n.requireNothing()
}

// TestFault39SandboxCannotBeTurnedOff: neither by the operator's options, nor by
// nix.conf's older names, nor by the options of caches.
func TestFault39SandboxCannotBeTurnedOff(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	for _, option := range []string{"sandbox=false", "sandbox=relaxed", "sandbox-fallback=true", "build-use-sandbox=false", "require-sigs=false", "trusted-users=*", "extra-trusted-users=nobody"} {
		a, err := agent.New(agent.Config{Args: []string{"--nix-option", option}})
		if err != nil {
			t.Fatal(err)
		}
		name, _, _ := strings.Cut(option, "=")
		if err := a.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "the Nix option "+name+" cannot be changed") {
			t.Errorf("with %s the agent's start gives %v", option, err)
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}
}

// peek is a builder that writes down all that it can see and reach of the node.
// A line that does not begin with "own" is a hole.
const peek = `
  peek = run "peek" ''
    exec > $out # not 2>: for Nix, a builder that closes its log has ended
    for f in /etc/shadow /etc/hostname STATE STATE/etc/nix/nix.conf STATE/run/nix/socket STATE/nix/var/nix/db/db.sqlite DIR/secret /nix/var /root /home /var /sys/kernel /dev/sda /dev/mem /dev/kmsg /tmp/closured; do
      [ ! -e $f ] || echo "sees $f"
    done
    cat /etc/shadow DIR/secret 2>/dev/null | sed 's/^/reads /'
    for p in /proc/[0-9]*; do
      case $(tr '\0' ' ' < $p/cmdline) in sh*|tr*|"") ;; *) echo "sees the process of $p" ;; esac
    done
    for p in /nix/store/*; do
      case $p in $out|*-busybox-tree|*-peek*|*-text-own-*) ;; *) echo "sees $p" ;; esac
    done
    nc -w 2 127.0.0.1 PORT < /dev/null && echo "reaches the node"
    [ "$(id -u)" != 0 ] || echo "is root"
    mount -t tmpfs none /tmp 2>/dev/null && echo "mounts" 
    chmod 4755 /tmp/.. 2>/dev/null && echo "changes the root"
    echo x > /nix/store/x 2>/dev/null && rm /nix/store/x && echo "own: its store folder is writable"
    echo "own ${text { n = 1; seed = "own"; }}"
  '';
`

func TestFault39BuilderSeesNothingOfTheHost(t *testing.T) {
	t.Parallel()
	dir := nixtest.StateDir(t)
	writeFile(t, filepath.Join(dir, "secret"), "canary-builder")
	a := filepath.Join(dir, "agent")
	makeDir(t, a)
	visits, url := countVisits(t)
	port := url[strings.LastIndexByte(url, ':')+1:]
	set := strings.NewReplacer("STATE", filepath.Join(a, "state"), "DIR", dir, "PORT", port).Replace(peek + `
  unboxed = derivation {
    name = "unboxed"; system = builtins.currentSystem; builder = "${bb}/bin/sh"; PATH = "${bb}/bin"; __noChroot = true;
    args = [ "-c" "cat /etc/shadow > $out" ];
  };
  fetcher = derivation {
    name = "fetcher"; system = "builtin"; builder = "builtin:fetchurl"; url = "file:///etc/shadow";
    outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = "0000000000000000000000000000000000000000000000000000";
  };
  asRoot = derivation {
    name = "device"; system = builtins.currentSystem; builder = "${bb}/bin/sh"; PATH = "${bb}/bin";
    args = [ "-c" "mkdir $out; mknod $out/disk b 8 0 || mkfifo $out/disk; true" ];
  };
`)
	n := start(t, agent.Config{Dir: a, Args: offline(), PackageSet: packageSet(t, set)})
	other := n.textClosure(3, "somebody-elses")
	v := agent.Packages(1, "peek")
	n.publish(v)
	report, err := os.ReadFile(filepath.Join(n.Target(v), "store", filepath.Base(n.result(v))))
	if err != nil || !strings.Contains(string(report), "own /nix/store") {
		t.Fatalf("the builder's report: %v\n%s", err, report)
	}
	for line := range strings.Lines(string(report)) {
		if !strings.HasPrefix(line, "own") {
			t.Errorf("the builder %s", line)
		}
	}
	if strings.Contains(string(report), other) || visits() > 0 {
		t.Errorf("the builder saw %s, or reached the node %d times", other, visits())
	}
	n.unpublish(v)
	n.refused(agent.Packages(2, "unboxed"), failed, "-unboxed.drv", "__noChroot")
	n.refused(agent.Packages(3, "asRoot"), failed, "-device", "mend the package")
	message := n.refused(agent.Packages(4, "fetcher"), failed, "-fetcher.drv", "mend the package")
	if strings.Contains(message, "hash") || strings.Contains(message, "root:") {
		t.Errorf("the fetcher read a file of the node: %s", message)
	}
	n.requireIdle()
	n.requireNothing()
}

// TestFault40NoBuildUsers: a group without members makes Nix refuse every build;
// the message names it, and what is there already can still be published.
func TestFault40NoBuildUsers(t *testing.T) {
	t.Parallel()
	group := emptyGroup(t)
	n := start(t, agent.Config{PackageSet: packageSet(t, sourceSet), Args: offline("--nix-option", "build-users-group="+group)})
	n.logged("nix cannot build here") // the self-test has ended
	message := n.refused(agent.Packages(1, "hello"), failed, "refused", "sandbox", "CAP_SYS_ADMIN")
	if !strings.Contains(message, "build users") && !strings.Contains(message, "nixbld") {
		t.Errorf("the message does not name the group: %s", message)
	}
	v := agent.StorePath(2, n.textClosure(3, "there"))
	n.publish(v)
	n.unpublish(v)
	n.requireNothing()
}

// emptyGroup gives a group of the machine without members, other than that of
// the evaluators: Nix refuses connections of build users.
func emptyGroup(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/etc/group")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) == 4 && fields[3] == "" && fields[2] != "0" && fields[2] != "65534" {
			return fields[0]
		}
	}
	t.Skip("needs a group without members in /etc/group")
	return ""
}
