//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// describedLater makes pods of an object that does not exist yet: they wait, say
// for what, and start by themselves.
func describedLater(t *testing.T) {
	sleep := `command: [/bin/sleep, "1000000"]`
	reference := imageHost + "image/" + describedNamespace + "/later:v1"
	removeImages(t, reference)
	t.Cleanup(func() { removeImages(t, reference) })
	apply(t, describedPod("later-image", "image: "+reference+", "+sleep, "")+
		describedPod("later-volume", "image: localhost/busybox:1, "+sleep+", volumeMounts: [{name: nix, mountPath: /nix}]",
			"volumes: [{name: nix, csi: {driver: "+driverName+", readOnly: true, volumeAttributes: {image: later}}}]"))
	pods := map[string][]string{
		"later-image":  {"Failed", reference, "not found"},
		"later-volume": {"FailedMount", "there is no NixImage later in the namespace " + describedNamespace, "next:"},
	}
	for name, words := range pods {
		pod, err := w.kube.CoreV1().Pods(describedNamespace).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		t.Log(event(t, pod, 2*time.Minute, words...))
	}
	apply(t, describedObject("later", "tag: v1", "contents: [one]"))
	requireReady(t, describedNamespace, "later")
	begin, after := time.Now(), map[string]time.Duration{}
	err := wait(t.Context(), 6*time.Minute, "the pods", func() error {
		for name := range pods {
			pod, err := w.kube.CoreV1().Pods(describedNamespace).Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if isReady(pod) && after[name] == 0 {
				after[name] = time.Since(begin)
			}
		}
		if len(after) < len(pods) {
			return fmt.Errorf("only %v", after)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	figure("pods made before their NixImage", "object Ready to pod Ready: by its volume %s, by its image %s (kubelet's back-off of pulls)", ms(after["later-volume"]), ms(after["later-image"]))
	must(t, "delete", "-n", describedNamespace, "nixi/later", "pod/later-image", "pod/later-volume")
}

// describedOddities are objects that are right and odd.
func describedOddities(t *testing.T) {
	name := strings.Repeat("n", 55) + ".odd-1x" // 62
	name += "y"
	long := strings.Repeat("x", 1000)
	labels := map[string]string{"a=b": "tab\t, \"quotes\", 'more', $(HOME) $$ `id` \\ ünï €", " ": "of no name", "new\nline": "-- --x=\n"}
	env := []string{"A=$(HOME)", "B=$$(HOME)", "C=line\nline", "D="}
	for i := range 25 {
		env = append(env, fmt.Sprintf("E%d=%s", i, long))
	}
	config := fmt.Sprintf("config: {entrypoint: [/bin/sleep], cmd: [%q], workingDir: '/share', user: '1000:1000', exposedPorts: ['8080', 53/udp], env: [%s], labels: {%s}}",
		"1000000", quoted(env), quotedMap(labels))
	apply(t, describedObject(name, "tag: "+strings.Repeat("t", 128), "contents: [one]", config))
	o := requireReady(t, describedNamespace, name)
	file, err := remoteImage(t, strings.TrimPrefix(o.Status.Reference, imageHost)).ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(labels, file.Config.Labels); diff != "" {
		t.Errorf("the labels (-want +got):\n%s", diff)
	}
	for _, v := range env {
		if !slices.Contains(file.Config.Env, v) {
			t.Errorf("the image lacks the variable %.40q", v)
		}
	}
	apply(t, describedPod("odd", "image: "+o.Status.Reference, ""))
	must(t, "wait", "-n", describedNamespace, "--for=condition=Ready", "pod/odd", "--timeout=3m")
	if says := must(t, "exec", "-n", describedNamespace, "odd", "--", "/bin/sh", "-c", `echo "$A"`); says != "$(HOME)" {
		t.Errorf("the pod's variable is %q", says)
	}
	must(t, "delete", "-n", describedNamespace, "nixi/"+name, "pod/odd")
}

func quoted(values []string) string {
	texts := make([]string, 0, len(values))
	for _, v := range values {
		texts = append(texts, fmt.Sprintf("%q", v))
	}
	return strings.Join(texts, ", ")
}

func quotedMap(values map[string]string) string {
	texts := make([]string, 0, len(values))
	for k, v := range values {
		texts = append(texts, fmt.Sprintf("%q: %q", k, v))
	}
	return strings.Join(texts, ", ")
}

// describedWrongly are objects whose form is right, and which nobody can build.
func describedWrongly(t *testing.T) {
	tests := []struct {
		name, reason string
		words        []string
		spec         string
	}{
		{"no-such-path", "SourceNotFound", []string{"/nix/store/00000000000000000000000000000000-none", "next:"}, "storePaths: {x86_64-linux: /nix/store/00000000000000000000000000000000-none}"},
		{"no-such-package", "SourceNotFound", []string{"onne", "next:"}, "contents: [onne]"},
		{"proto", "SourceNotFound", []string{"__proto__", "next:"}, "contents: [__proto__]"},
		{"constructor", "SourceNotFound", []string{"constructor", "next:"}, "contents: [one, constructor]"},
		{"impatient", "DeadlineExceeded", []string{"the build took longer than 20s; its last state was: "}, "contents: [sluggish]\n  build: {deadline: 20s}"},
		{"nowhere", "NoNode", []string{"nodes are available"}, "contents: [one]\n  build: {nodeSelector: {there: is-none}}"},
	}
	var objects, names []string
	for _, test := range tests {
		objects, names = append(objects, describedObject(test.name, test.spec)), append(names, test.name)
	}
	apply(t, strings.Join(objects, "---\n"))
	for _, test := range tests {
		requireStalled(t, describedNamespace, test.name, test.reason, test.words...)
	}
	must(t, append([]string{"delete", "nixi", "-n", describedNamespace}, names...)...)
}

// describedSpecs: what kubectl explains, and what the API server refuses at once.
func describedSpecs(t *testing.T) {
	for field, word := range map[string]string{"": "Exactly one of", ".contents": "package set", ".config.exposedPorts": "53/udp", ".build.deadline": "Deadline"} {
		if says := must(t, "explain", "nixi.spec"+field); !strings.Contains(says, word) {
			t.Errorf("kubectl explain nixi.spec%s says nothing of %q:\n%s", field, word, says)
		}
	}
	for _, test := range []struct{ name, spec, word string }{
		{"no-source", "tag: v1", "set exactly one of contents, flakeRef, expression and storePaths"},
		{"two-sources", "contents: [one]\n  expression: 'pkgs: pkgs.one'", "set exactly one of contents, flakeRef, expression and storePaths"},
		{"empty-contents", "contents: []", "should have at least 1 items"},
		{"empty-name", "contents: ['']", "should match"},
		{"twice", "contents: [one, one]", "Duplicate value"},
		{"not-a-name", "contents: ['one;two']", "should match"},
		{"65-names", "contents: [" + names(65) + "]", "must have at most 64 items"},
		{"bad-tag", "contents: [one]\n  tag: ':v1'", "should match"},
		{"empty-tag", "contents: [one]\n  tag: ''", "should match"},
		{"no-such-system", "contents: [one]\n  systems: [riscv64-linux]", "supported values"},
		{"no-such-system-of-path", "storePaths: {i686-linux: /nix/store/00000000000000000000000000000000-none}", "the known systems are x86_64-linux and aarch64-linux"},
		{"derivation", "storePaths: {x86_64-linux: /nix/store/00000000000000000000000000000000-none.drv}", "name what the derivation builds"},
		{"not-a-path", "storePaths: {x86_64-linux: /etc/shadow}", "should match"},
		{"path-missing", "storePaths: {x86_64-linux: /nix/store/00000000000000000000000000000000-none}\n  systems: [aarch64-linux]", "storePaths must have a path for each of systems"},
		{"refreshed-path", "storePaths: {x86_64-linux: /nix/store/00000000000000000000000000000000-none}\n  refreshInterval: 1h", "refreshInterval is of no use with storePaths"},
		{"too-often", "contents: [one]\n  refreshInterval: 59s", "refreshInterval must be at least 1m"},
		{"remembered-flake", "flakeRef: 'github:a/b#c'\n  refreshInterval: 1h", "refreshInterval must be at least 2h with flakeRef"},
		{"exponent", "contents: [one]\n  build: {resources: {limits: {memory: '1e9'}}}", "write a quantity as 500m"},
		{"misspelt", "content: [one]", `unknown field "spec.content"`},
		{"bad-env", "contents: [one]\n  config: {env: ['1=2']}", "should match"},
		{"nul", `contents: [one]` + "\n  " + `config: {cmd: ["a\0b"]}`, "should match"},
		{"nameless-label", "contents: [one]\n  config: {labels: {'': x}}", "a label needs a name"},
		{"too-much", "contents: [one]\n  config: {cmd: [" + strings.Repeat("'"+strings.Repeat("x", 1000)+"', ", 60) + "]}", "config is longer than 32 KiB together"},
		{"bad-port", "contents: [one]\n  config: {exposedPorts: ['80/http']}", "should match"},
		{"other-architecture", "contents: [one]\n  build: {nodeSelector: {kubernetes.io/arch: arm64}}", "the system selects kubernetes.io/arch"},
		{"short-deadline", "contents: [one]\n  build: {deadline: 1s}", "deadline must be between 10s and 168h"},
		{strings.Repeat("n", 64), "contents: [one]", "at most 63 characters"},
	} {
		out, err := kubectl(t.Context(), describedObject(test.name, test.spec), "apply", "--dry-run=server", "-f", "-")
		if err == nil || !strings.Contains(out, test.word) {
			t.Errorf("%s: want a refusal with %q, got %v: %s", test.name, test.word, err, out)
		}
	}
}

func names(n int) string {
	all := make([]string, 0, n)
	for i := range n {
		all = append(all, fmt.Sprintf("n%d", i))
	}
	return strings.Join(all, ", ")
}
