//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// describedFailures wants of objects that cannot be built that they say why, that
// secrets stay out of what they say, and that a log does not make them big.
func describedFailures(t *testing.T) {
	const objectMax = 32 << 10
	agent, err := agentPIDs()
	if err != nil || len(agent) != 1 {
		t.Fatalf("the agents are %v (%v)", agent, err)
	}
	memory, cpu, begin := memoryOf(t, agent[0]), processor(t, agent[0]), time.Now()
	apply(t, describedObject("noisy", "contents: [noisy]"))
	noisy := requireStalled(t, describedNamespace, "noisy", "BuildFailed", "noisy-1.0", "unknown type name 'imt'", "next:")
	took := time.Since(begin)
	if noisy.bytes > objectMax {
		t.Errorf("with a log of 10 MiB the object has %d bytes", noisy.bytes)
	}
	figure("NixImage with a log of 10 MiB", "Stalled after %s; object %d bytes, its message %d; the agent used %s of CPU, its resident memory was %.1f MiB before and %.1f after",
		ms(took), noisy.bytes, len(noisy.condition("Stalled").Message), ms(processor(t, agent[0])-cpu), mib(memory), mib(memoryOf(t, agent[0])))
	if c := noisy.condition("Building"); c.Reason != "Retrying" || !strings.Contains(c.Message, "attempt 1 failed; the next one begins at ") {
		t.Errorf("Building is %s, %s: %s", c.Status, c.Reason, c.Message)
	}
	if c := noisy.condition("Ready"); c.Reason != "NotAvailable" {
		t.Errorf("Ready is %s, %s: %s", c.Status, c.Reason, c.Message)
	}
	apply(t, describedObject("broken", "contents: [broken]"))
	requireStalled(t, describedNamespace, "broken", "BuildFailed", "x86_64-linux: ", "broken-1.0", "main.c:1:10: fatal error: frobnicate.h", "next:")
	must(t, "delete", "nixi", "-n", describedNamespace, "broken", "noisy")
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// describedPolicy wants one expression and one flake to be refused where the policy
// does not allow them, by admission or else by the agent, and built where it does.
func describedPolicy(t *testing.T) {
	const may, believes = "dev-niximage", "e2e-niximage-label" // the agent's policy does not know the second
	namespace(t, may, restricted+", closured.dev/any-source: \"true\"", "")
	namespace(t, believes, restricted+", closured.dev/any-source: \"true\"", "")
	const expression, refused = `expression: "pkgs: [ pkgs.one pkgs.jq ]"`, "PolicyRefused"
	flake := "flakeRef: \"path:" + flakeDir() + "#flaked\""
	apply(t, describedObject("expression", expression)+"---\n"+describedObject("flake", flake)+"---\n"+describedObjectIn(believes, "expression", expression)+
		"---\n"+describedObjectIn(may, "expression", expression, "tag: v1")+"---\n"+describedObjectIn(may, "flake", flake))
	requireStalled(t, describedNamespace, "expression", refused, "closured-volumes", "flakeRef and nixExpr are not allowed in this namespace", "next:")
	requireStalled(t, describedNamespace, "flake", refused, "flakeRef and nixExpr are not allowed in this namespace")
	requireStalled(t, believes, "expression", refused, "nixExpr", believes, "next:")
	built := requireReady(t, may, "expression")
	requireReady(t, may, "flake")
	apply(t, describedPodIn(may, "expression", "image: "+built.Status.Reference+", command: [/bin/sleep, \"1000000\"]", ""))
	must(t, "wait", "-n", may, "--for=condition=Ready", "pod/expression", "--timeout=3m")
	if says := must(t, "exec", "-n", may, "expression", "--", "/bin/cat", "/share/name"); says != "one" {
		t.Errorf("the pod of an expression reads %q", says)
	}

	canary := fmt.Sprintf("canary-%d-secret", time.Now().UnixNano())
	apply(t, describedObjectIn(may, "throws", `expression: 'pkgs: throw "https://user:`+canary+`@git.invalid/"'`)+
		"---\n"+describedObjectIn(may, "missing", `expression: 'pkgs: let password = "`+canary+`"; in pkgs.missing'`))
	for name, word := range map[string]string{"throws": "git.invalid", "missing": "missing"} {
		o := requireStalled(t, may, name, "BuildFailed", word)
		texts := append(eventsOfObject(t, o), fmt.Sprint(o.Status))
		texts = append(texts, must(t, "logs", "-n", agentNamespace, "deployment/closured-controller"), w.agent.log(true))
		for _, text := range texts {
			if at := strings.Index(text, canary); at >= 0 {
				t.Errorf("the secret of %s stands in …%s", name, text[max(0, at-200):at+len(canary)])
			}
		}
	}
}

// describedSystems wants what can be built to be served, and what cannot to be
// named: there is no node for the other system.
func describedSystems(t *testing.T) {
	apply(t, describedObject("two-systems", "tag: v1", "contents: [jq, one]", "systems: [x86_64-linux, aarch64-linux]"))
	o := requireStalled(t, describedNamespace, "two-systems", "NoNode", "aarch64-linux: ", "nodes are available")
	awaitJSON(t, "two-systems", `{.status.conditions[?(@.type=="Ready")].reason}`, "PartlyAvailable")
	o = objectOf(t, describedNamespace, "two-systems")
	o.told(t)
	if c := o.condition("Ready"); c.Status != "True" || !strings.HasSuffix(c.Message, "; it lacks aarch64-linux") {
		t.Errorf("Ready is %s: %s", c.Status, c.Message)
	}
	if len(o.Status.Images) != 1 || o.Status.Images[0].Digest != o.Status.Digest || o.Status.Images[0].System != "x86_64-linux" {
		t.Errorf("the only image is %+v, and the digest %s", o.Status.Images, o.Status.Digest)
	}
	apply(t, describedPod("two-systems", "image: "+o.Status.Reference+", command: [/bin/sleep, \"1000000\"]", ""))
	must(t, "wait", "-n", describedNamespace, "--for=condition=Ready", "pod/two-systems", "--timeout=3m")
	must(t, "delete", "-n", describedNamespace, "nixi/two-systems", "pod/two-systems")
}

// describedQuota wants an object to say that a quota is used up, first that of Jobs
// and then that of pods, and to be built by itself once it is raised.
func describedQuota(t *testing.T) {
	const tight = "e2e-niximage-quota"
	namespace(t, tight, restricted, fmt.Sprintf(`---
apiVersion: v1
kind: ResourceQuota
metadata: {name: tight, namespace: %s}
spec: {hard: {count/jobs.batch: "0", pods: "0"}}
`, tight))
	must(t, "wait", "-n", tight, "--for=jsonpath={.status.used.pods}=0", "resourcequota/tight", "--timeout=1m")
	raise := func(what string) time.Time {
		must(t, "patch", "resourcequota", "-n", tight, "tight", "--type=merge", "-p", `{"spec": {"hard": {"`+what+`": "5"}}}`)
		return time.Now()
	}
	apply(t, describedObjectIn(tight, "quota", "contents: [one]"))
	requireStalled(t, tight, "quota", "QuotaExceeded", "exceeded quota: tight", "count/jobs.batch=0")
	raised := raise("count/jobs.batch")
	requireStalled(t, tight, "quota", "QuotaExceeded", "exceeded quota: tight", "pods=0")
	jobs := time.Since(raised)
	raised = raise("pods")
	requireReady(t, tight, "quota")
	figure("NixImage whose quota was raised", "that of Jobs: a Job after %s; that of pods: object Ready after %s, without a further hand", ms(jobs), ms(time.Since(raised)))
	if c := objectOf(t, tight, "quota").condition("Stalled"); c.Status != "False" {
		t.Errorf("once it is ready, Stalled is %s, %s: %s", c.Status, c.Reason, c.Message)
	}
}

// describedLimits wants build pods to be admitted under a LimitRange that gives
// defaults and bounds, or else the object to say what is wrong with its resources.
func describedLimits(t *testing.T) {
	const bounded = "e2e-niximage-limits"
	namespace(t, bounded, restricted, fmt.Sprintf(`---
apiVersion: v1
kind: LimitRange
metadata: {name: bounds, namespace: %s}
spec:
  limits:
  - {type: Container, min: {memory: 100Mi}, max: {memory: 600Mi, cpu: "1"}, default: {cpu: 500m}, defaultRequest: {cpu: 50m}}
`, bounded))
	const fits = "build: {resources: {requests: {memory: 100Mi}, limits: {memory: 256Mi}}}"
	apply(t, describedObjectIn(bounded, "small", "contents: [one]")+"---\n"+describedObjectIn(bounded, "fits", "contents: [one]", fits))
	requireReady(t, bounded, "fits")
	requireStalled(t, bounded, "small", "PodRefused", "minimum memory usage per Container is 100Mi, but request is 64Mi")
	apply(t, describedObjectIn(bounded, "small", "contents: [one]", fits))
	requireReady(t, bounded, "small")
}
