package deploy

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"cel.dev/cel-go/cel"
)

// policy evaluates a ValidatingAdmissionPolicy as the API server does, as far as the
// language without Kubernetes' own functions goes.
type policy struct {
	t    testing.TB
	spec any
	env  *cel.Env
}

func newPolicy(t testing.TB, objects []object, name string) policy {
	t.Helper()
	env, err := cel.NewEnv(
		cel.Variable("object", cel.DynType), cel.Variable("oldObject", cel.DynType), cel.Variable("request", cel.DynType),
		cel.Variable("namespaceObject", cel.DynType), cel.Variable("variables", cel.DynType),
		cel.Variable("params", cel.DynType), cel.OptionalTypes(),
	)
	if err != nil {
		t.Fatal(err)
	}
	return policy{t: t, spec: find(t, objects, "ValidatingAdmissionPolicy", name)["spec"], env: env}
}

func (p policy) eval(expression string, with map[string]any) any {
	p.t.Helper()
	ast, issues := p.env.Compile(expression)
	if issues.Err() != nil {
		p.t.Fatalf("%s: %v", expression, issues.Err())
	}
	program, err := p.env.Program(ast)
	if err != nil {
		p.t.Fatal(err)
	}
	value, _, err := program.Eval(with)
	if err != nil {
		p.t.Fatalf("%s: %v", expression, err)
	}
	return value.Value()
}

// review gives why a request is refused; "" when it is not, or is not looked at.
func (p policy) review(request map[string]any) string {
	p.t.Helper()
	with := map[string]any{"object": nil, "oldObject": nil, "request": nil, "namespaceObject": nil, "params": nil}
	for key, value := range request {
		with[key] = value
	}
	variables := map[string]any{}
	with["variables"] = variables
	for _, condition := range items(p.spec, "matchConditions") {
		if p.eval(fmt.Sprint(condition["expression"]), with) != true {
			return ""
		}
	}
	for _, v := range items(p.spec, "variables") {
		variables[fmt.Sprint(v["name"])] = p.eval(fmt.Sprint(v["expression"]), with)
	}
	for _, v := range items(p.spec, "validations") {
		if p.eval(fmt.Sprint(v["expression"]), with) == true {
			continue
		}
		if text, ok := v["messageExpression"].(string); ok {
			return fmt.Sprint(p.eval(text, with))
		}
		return fmt.Sprint(v["message"])
	}
	return ""
}

// podWith gives a pod with volumes of the given attributes, and one of another kind.
func podWith(driver string, attributes ...any) object {
	volumes := []any{object{"name": "other", "emptyDir": object{}}}
	for i, a := range attributes {
		csi := object{"driver": driver}
		if a != nil {
			csi["volumeAttributes"] = a
		}
		volumes = append(volumes, object{"name": fmt.Sprint("v", i), "csi": csi})
	}
	return object{"metadata": object{"name": "p"}, "spec": object{"volumes": volumes}}
}

func TestAdmissionMirrorsTheDefaultPolicy(t *testing.T) {
	t.Parallel()
	const ours, path = "csi.closured.dev", "/nix/store/1rz4g4znpzjwh1xymhjpm42vipw92pr7-curl-8.1.2"
	a := func(pairs ...string) object {
		o := object{}
		for i := 0; i < len(pairs); i += 2 {
			o[pairs[i]] = pairs[i+1]
		}
		return o
	}
	allowed := map[string]string{"closured.dev/any-source": "true"}
	tests := map[string]struct {
		pod    object
		labels map[string]string
		says   string // "": it is allowed
	}{
		"packages":                              {pod: podWith(ours, a("packages", "curl"))},
		"a store path":                          {pod: podWith(ours, a("storePath", path))},
		"store paths of two systems":            {pod: podWith(ours, a("x86_64-linux", path, "aarch64-linux", path))},
		"a system beside a store path":          {pod: podWith(ours, a("x86_64-linux", path, "storePath", path))},
		"another system of Nix":                 {pod: podWith(ours, a("riscv64-linux", path))},
		"an image":                              {pod: podWith(ours, a("image", "web"))},
		"options":                               {pod: podWith(ours, a("packages", "curl", "writable", "true", "sizeLimit", "1Gi"))},
		"a user namespace":                      {pod: podWith(ours, a("packages", "curl", "hostUsers", "false"))},
		"two volumes":                           {pod: podWith(ours, a("packages", "curl"), a("storePath", path))},
		"a pod without volumes":                 {pod: object{"spec": object{}}},
		"volumes of another driver":             {pod: podWith("other.csi", a("flakeRef", "x"), nil)},
		"a flake where flakes are allowed":      {pod: podWith(ours, a("flakeRef", "github:o/r#x")), labels: allowed},
		"an expression where they are allowed":  {pod: podWith(ours, a("nixExpr", "1")), labels: allowed},
		"a flake":                               {podWith(ours, a("flakeRef", "github:o/r#x")), nil, "flakeRef and nixExpr are not allowed"},
		"an expression":                         {podWith(ours, a("nixExpr", "1")), nil, "flakeRef and nixExpr are not allowed"},
		"a flake in the second volume":          {podWith(ours, a("packages", "curl"), a("flakeRef", "x")), nil, "not allowed"},
		"a flake where the label says no":       {podWith(ours, a("flakeRef", "x")), map[string]string{"closured.dev/any-source": "false"}, "not allowed"},
		"a flake where there are other labels":  {podWith(ours, a("flakeRef", "x")), map[string]string{"team": "a"}, "not allowed"},
		"an unknown attribute":                  {podWith(ours, a("package", "curl")), nil, `no volume attribute "package"`},
		"an unknown one in the second volume":   {podWith(ours, a("packages", "x"), a("pkgs", "curl")), nil, `no volume attribute "pkgs"`},
		"an unknown one where all is allowed":   {podWith(ours, a("packages", "x", "wriable", "true")), allowed, `"wriable"`},
		"no attributes at all":                  {podWith(ours, nil), nil, "exactly one source"},
		"options without a source":              {podWith(ours, a("writable", "true")), nil, "exactly one source"},
		"two sources":                           {podWith(ours, a("packages", "x", "storePath", path)), nil, "exactly one source"},
		"a system and packages":                 {podWith(ours, a("packages", "x", "x86_64-linux", path)), nil, "exactly one source"},
		"two sources where all sources may be":  {podWith(ours, a("flakeRef", "x", "nixExpr", "y")), allowed, "exactly one source"},
		"kubelet's own keys, set by hand":       {pod: podWith(ours, a("packages", "x", "csi.storage.k8s.io/pod.name", "y"))}, // kubelet overwrites them
		"a key that only looks like a system's": {podWith(ours, a("x86_64-linux; x", path)), nil, "no volume attribute"},
	}
	for source, objects := range map[string][]object{"base": kustomize(t, "base"), "chart": chart(t, nil)} {
		p := newPolicy(t, objects, "closured-volumes")
		for name, test := range tests {
			t.Run(source+"/"+name, func(t *testing.T) {
				metadata := object{"name": "ns"}
				if test.labels != nil {
					metadata["labels"] = test.labels
				}
				p.t = t
				got := p.review(object{"object": test.pod, "namespaceObject": object{"metadata": metadata}})
				if (got == "") != (test.says == "") || !strings.Contains(got, test.says) {
					t.Errorf("it says %q, want %q", got, test.says)
				}
			})
		}
	}
}

// TestExamplesPassAdmission: what we show must work, in its own namespace.
func TestExamplesPassAdmission(t *testing.T) {
	t.Parallel()
	p := newPolicy(t, kustomize(t, "base"), "closured-volumes")
	files, err := filepath.Glob(folder + "/examples/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, file := range files {
		labels := map[string]any{}
		for _, o := range read(t, "examples/"+filepath.Base(file)) {
			if l, ok := at(o, "metadata", "labels").(map[string]any); ok && o["kind"] == "Namespace" {
				labels = l
			}
			if template := at(o, "spec", "template"); template != nil {
				o = template.(object)
			} else if o["kind"] != "Pod" {
				continue
			}
			seen++
			ns := object{"metadata": object{"labels": labels}}
			if says := p.review(object{"object": o, "namespaceObject": ns}); says != "" {
				t.Errorf("%s: %s", file, says)
			}
		}
	}
	if seen < len(files) {
		t.Errorf("%d pods in %d files", seen, len(files))
	}
}

func TestAnAgentChangesItsOwnTaintOnly(t *testing.T) {
	t.Parallel()
	const agent, key = "system:serviceaccount:closured-system:closured", "closured.dev/agent-not-ready"
	node := func(change func(metadata, spec object)) object {
		metadata := object{"name": "n1", "labels": object{"a": "b"}, "annotations": object{"c": "d"}}
		spec := object{"taints": []any{object{"key": "other", "effect": "NoSchedule"}, object{"key": key, "effect": "NoSchedule"}}}
		change(metadata, spec)
		return object{"metadata": metadata, "spec": spec}
	}
	others := []any{object{"key": "other", "effect": "NoSchedule"}}
	as := func(user, name string) object {
		extra := object{}
		if name != "" {
			extra["authentication.kubernetes.io/node-name"] = []any{name}
		}
		return object{"userInfo": object{"username": user, "extra": extra}}
	}
	removed := func(_, spec object) { spec["taints"] = others }
	tests := map[string]struct {
		request object
		change  func(metadata, spec object)
		says    string
	}{
		"its taint":             {as(agent, "n1"), removed, ""},
		"nothing":               {as(agent, "n1"), func(_, _ object) {}, "may remove the taint"}, // it never asks for nothing
		"another's node":        {as(agent, "n2"), removed, "own node only"},
		"a token without node":  {as(agent, ""), removed, "own node only"},
		"all taints":            {as(agent, "n1"), func(_, spec object) { delete(spec, "taints") }, "may remove the taint"},
		"a taint more":          {as(agent, "n1"), func(_, spec object) { spec["taints"] = append(others, object{"key": "x"}) }, "may remove the taint"},
		"a label":               {as(agent, "n1"), func(m, s object) { removed(m, s); m["labels"] = object{"a": "c"} }, "nothing of a node"},
		"an annotation":         {as(agent, "n1"), func(m, s object) { removed(m, s); delete(m, "annotations") }, "nothing of a node"},
		"whether it takes pods": {as(agent, "n1"), func(m, s object) { removed(m, s); s["unschedulable"] = true }, "nothing of a node"},
		"somebody else":         {as("admin", ""), func(m, _ object) { m["labels"] = object{} }, ""},
	}
	for source, objects := range map[string][]object{
		"component": kustomize(t, "../tests/deploy/testdata/startup-taint"),
		"chart":     chart(t, values{"startupTaint": values{"enabled": true}}),
	} {
		p := newPolicy(t, objects, "closured-own-node")
		for name, test := range tests {
			t.Run(source+"/"+name, func(t *testing.T) {
				p.t = t
				got := p.review(object{
					"request": test.request, "oldObject": node(func(_, _ object) {}), "object": node(test.change),
				})
				if (got == "") != (test.says == "") || !strings.Contains(got, test.says) {
					t.Errorf("it says %q, want %q", got, test.says)
				}
			})
		}
	}
}
