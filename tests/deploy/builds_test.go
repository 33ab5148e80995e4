package deploy

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// Who asks, in requests that have to do with builds.
const (
	theController = "system:serviceaccount:closured-system:closured-controller"
	jobController = "system:serviceaccount:kube-system:job-controller"
	anybody       = "alice"
)

// buildLabels are those of the Jobs of the controller.
func buildLabels() object {
	return object{
		"app.kubernetes.io/managed-by": "closured-controller", "closured.dev/niximage": "web", "closured.dev/system": "x86_64-linux",
		"closured.dev/build": "0123456789abcdef", "closured.dev/round": "1", "closured.dev/attempt": "0",
	}
}

// with gives a copy of labels with one more, or without it when value is empty.
func with(labels object, key, value string) object {
	labels = maps.Clone(labels)
	labels[key] = value
	if value == "" {
		delete(labels, key)
	}
	return labels
}

func jobOf(labels, ofPods object) object {
	job := object{"metadata": object{"name": "j"}, "spec": object{"template": object{"metadata": object{}}}}
	if labels != nil {
		job["metadata"] = object{"name": "j", "labels": labels}
	}
	if ofPods != nil {
		job["spec"] = object{"template": object{"metadata": object{"labels": ofPods}}}
	}
	return job
}

// asked is a request, as the API server shows it to a policy.
type asked struct {
	user, operation, resource, subresource string
	groups                                 []any
	name                                   string
	object, before, params                 object
}

func (a asked) request() map[string]any {
	info := object{"username": a.user}
	if a.groups != nil {
		info["groups"] = a.groups
	}
	request := object{"operation": a.operation, "userInfo": info, "name": a.name}
	if a.subresource != "" {
		request["subResource"] = a.subresource
	}
	out := map[string]any{"request": request}
	for key, value := range map[string]object{"object": a.object, "oldObject": a.before, "params": a.params} {
		if value != nil {
			out[key] = value
		}
	}
	return out
}

// matches tells whether a policy looks at a request at all.
func (p policy) matches(a asked) bool {
	resource := a.resource
	if a.subresource != "" {
		resource += "/" + a.subresource
	}
	ruled := slices.ContainsFunc(items(p.spec, "matchConstraints", "resourceRules"), func(rule object) bool {
		return slices.Contains(rule["resources"].([]any), any(resource)) && slices.Contains(rule["operations"].([]any), any(a.operation))
	})
	selected := func(o object) bool {
		want, _ := at(p.spec, "matchConstraints", "objectSelector", "matchLabels").(object)
		labels, _ := at(o, "metadata", "labels").(object)
		for key, value := range want {
			if o == nil || labels[key] != value {
				return false
			}
		}
		return true
	}
	return ruled && (selected(a.object) || selected(a.before))
}

// checkBuilds asks a policy of the component, and of the chart, and wants its words.
func checkBuilds(t *testing.T, name string, tests map[string]struct {
	asked asked
	says  string // "": it is allowed
}) {
	t.Helper()
	for source, objects := range niximageSources(t) {
		p := newPolicy(t, objects, name)
		for name, test := range tests {
			t.Run(source+"/"+name, func(t *testing.T) {
				p.t = t
				got := ""
				if p.matches(test.asked) {
					got = p.review(test.asked.request())
				}
				if (got == "") != (test.says == "") || !strings.Contains(got, test.says) {
					t.Errorf("it says %q, want %q", got, test.says)
				}
			})
		}
	}
}

func TestOnlyTheControllerMakesBuildJobs(t *testing.T) {
	t.Parallel()
	const ours = "made by closured's controller"
	labels, none, helm := buildLabels(), object(nil), object{"app.kubernetes.io/managed-by": "Helm"}
	create := func(user string, o object) asked {
		return asked{user: user, operation: "CREATE", resource: "jobs", object: o}
	}
	update := func(user string, before, after object) asked {
		return asked{user: user, operation: "UPDATE", resource: "jobs", before: before, object: after}
	}
	build := jobOf(labels, labels)
	checkBuilds(t, "closured-builds", map[string]struct {
		asked asked
		says  string
	}{
		"the controller makes one":                    {create(theController, build), ""},
		"the controller changes one":                  {update(theController, build, jobOf(with(labels, "closured.dev/round", "2"), labels)), ""},
		"somebody makes one":                          {create(anybody, build), ours},
		"the controller of CronJobs, for somebody":    {create("system:serviceaccount:kube-system:cronjob-controller", build), ours},
		"a Job whose pods would be build pods":        {create(anybody, jobOf(none, labels)), ours},
		"a Job that only looks like one":              {create(anybody, jobOf(labels, none)), ours},
		"a controller of that name elsewhere":         {create("system:serviceaccount:tools:closured-controller", build), ours},
		"somebody's own Job":                          {create(anybody, jobOf(none, none)), ""},
		"somebody's own Job, managed by another":      {create(anybody, jobOf(helm, helm)), ""},
		"their own becomes a build":                   {update(anybody, jobOf(none, none), jobOf(labels, none)), ours},
		"the pods of their own become builds":         {update(anybody, jobOf(none, helm), jobOf(none, labels)), ours},
		"a build becomes their own":                   {update(anybody, build, jobOf(with(labels, "app.kubernetes.io/managed-by", ""), none)), ours},
		"a build of something else":                   {update(anybody, build, jobOf(with(labels, "closured.dev/build", "f"), labels)), ours},
		"a build for another image":                   {update(anybody, build, jobOf(with(labels, "closured.dev/niximage", "db"), labels)), ours},
		"another system":                              {update(anybody, build, jobOf(with(labels, "closured.dev/system", "aarch64-linux"), labels)), ours},
		"another round":                               {update(anybody, build, jobOf(with(labels, "closured.dev/round", "2"), labels)), ours},
		"another attempt, of its pods":                {update(anybody, build, jobOf(labels, with(labels, "closured.dev/attempt", "1"))), ours},
		"a build is suspended, or gets other labels":  {update(anybody, build, jobOf(with(labels, "team", "a"), labels)), ""},
		"the Job controller changes only its status":  {asked{user: jobController, operation: "UPDATE", resource: "jobs", subresource: "status", before: build, object: build}, ""},
		"the Job controller takes its finalizer away": {update(jobController, build, build), ""},
		"somebody deletes one":                        {asked{user: anybody, operation: "DELETE", resource: "jobs", before: build}, ""},
		"their own without any labels, changed":       {update(anybody, jobOf(none, none), jobOf(helm, none)), ""},
	})
}

func TestNobodyForgesABuildPod(t *testing.T) {
	t.Parallel()
	labels := with(with(buildLabels(), "batch.kubernetes.io/job-name", "web-0"), "batch.kubernetes.io/controller-uid", "u")
	pod := func(labels object, image string, more ...any) object {
		spec := object{"containers": []any{object{"name": "report", "image": image}}}
		o := object{"metadata": object{"name": "p"}, "spec": spec}
		if labels != nil {
			o["metadata"] = object{"name": "p", "labels": labels}
		}
		if len(more) > 0 {
			spec["initContainers"] = more
		}
		return o
	}
	says := func(message string) object {
		o := pod(labels, "ours")
		o["status"] = object{"phase": "Running", "containerStatuses": []any{object{"state": object{"terminated": object{"message": message}}}}}
		return o
	}
	create := func(user string, o object) asked {
		return asked{user: user, operation: "CREATE", resource: "pods", object: o}
	}
	update := func(sub string, before, after object) asked {
		return asked{user: anybody, operation: "UPDATE", resource: "pods", subresource: sub, before: before, object: after, groups: []any{"system:authenticated"}}
	}
	status := func(user string, groups []any, after object) asked {
		return asked{user: user, operation: "UPDATE", resource: "pods", subresource: "status", before: pod(labels, "ours"), object: after, groups: groups}
	}
	ours, theirs := pod(labels, "ours"), pod(object{"app": "web"}, "theirs")
	failed := pod(labels, "ours")
	failed["status"] = object{"phase": "Failed"}
	const becomes, keeps, kubelet = "no pod becomes a build pod", "keeps its images", "said by kubelet only"
	checkBuilds(t, "closured-build-pods", map[string]struct {
		asked asked
		says  string
	}{
		"the Job controller makes one":                     {create(jobController, ours), ""},
		"a Job controller without an account of its own":   {create("system:kube-controller-manager", ours), ""},
		"somebody makes one":                               {create(anybody, ours), "made for the Jobs"},
		"a ReplicaSet of theirs makes one":                 {create("system:serviceaccount:kube-system:replicaset-controller", ours), "made for the Jobs"},
		"not even our controller makes one":                {create(theController, ours), "made for the Jobs"},
		"one with the controller's label and nothing else": {create(anybody, pod(object{"app.kubernetes.io/managed-by": "closured-controller"}, "x")), "made for the Jobs"},
		"a pod of their own":                               {create(anybody, theirs), ""},
		"a pod of their own without labels":                {create(anybody, pod(nil, "x")), ""},
		"their own becomes one":                            {update("", theirs, pod(labels, "theirs")), becomes},
		"their own becomes one with its status":            {update("status", theirs, pod(labels, "theirs")), becomes},
		"one becomes their own":                            {update("", ours, pod(object{"app": "web"}, "ours")), becomes},
		"one becomes that of another image":                {update("", ours, pod(with(labels, "closured.dev/niximage", "db"), "ours")), becomes},
		"one becomes that of another Job":                  {update("", ours, pod(with(labels, "batch.kubernetes.io/job-name", "db-0"), "ours")), becomes},
		"one becomes that of another Job, by its uid":      {update("", ours, pod(with(labels, "batch.kubernetes.io/controller-uid", "v"), "ours")), becomes},
		"it gets a label of theirs":                        {update("", ours, pod(with(labels, "team", "a"), "ours")), ""},
		"it gets another image":                            {update("", ours, pod(labels, "evil")), keeps},
		"it gets another image in an init container":       {update("", pod(labels, "ours", object{"image": "a"}), pod(labels, "ours", object{"image": "b"})), keeps},
		"their own gets another image":                     {update("", theirs, pod(object{"app": "web"}, "new")), ""},
		"it gets a container beside":                       {update("ephemeralcontainers", ours, ours), "no further containers"},
		"their own gets a container beside":                {update("ephemeralcontainers", theirs, theirs), ""},
		"kubelet reports":                                  {status("system:node:a", []any{"system:nodes", "system:authenticated"}, says("built")), ""},
		"somebody reports":                                 {status(anybody, []any{"system:authenticated"}, says("forged")), kubelet},
		"somebody without groups reports":                  {status(anybody, nil, says("forged")), kubelet},
		"somebody takes the report away":                   {asked{user: anybody, operation: "UPDATE", resource: "pods", subresource: "status", before: says("x"), object: failed}, kubelet},
		"the collector of pods gives it up":                {status("system:serviceaccount:kube-system:pod-garbage-collector", nil, failed), ""},
		"somebody deletes it":                              {asked{user: anybody, operation: "DELETE", resource: "pods", before: ours}, ""},
	})
}

func TestNobodyRunsCommandsInABuildPod(t *testing.T) {
	t.Parallel()
	build := object{"metadata": object{"name": "web-0123456789abcdef-abcde"}}
	connect := func(sub, name string) asked {
		options := object{"kind": "PodExecOptions", "container": "report"}
		return asked{user: anybody, operation: "CONNECT", resource: "pods", subresource: sub, name: name, object: options, params: build}
	}
	checkBuilds(t, "closured-build-exec", map[string]struct {
		asked asked
		says  string
	}{
		"in a build pod":               {connect("exec", "web-0123456789abcdef-abcde"), "nobody runs commands"},
		"attached to a build pod":      {connect("attach", "web-0123456789abcdef-abcde"), "nobody runs commands"},
		"in another pod of that place": {connect("exec", "web-0123456789abcdef-abcdf"), ""},
		"to a port of a build pod":     {connect("portforward", "web-0123456789abcdef-abcde"), ""},
	})
	for source, objects := range niximageSources(t) {
		ref := at(find(t, objects, "ValidatingAdmissionPolicyBinding", "closured-build-exec"), "spec", "paramRef")
		// With a namespace it would protect that one only; without Allow nobody could
		// run a command anywhere else.
		if at(ref, "namespace") != nil || at(ref, "parameterNotFoundAction") != "Allow" ||
			at(ref, "selector", "matchLabels", "app.kubernetes.io/managed-by") != "closured-controller" {
			t.Errorf("%s: the parameters are %v", source, ref)
		}
	}
}

func TestOnlyTheControllerWritesStatuses(t *testing.T) {
	t.Parallel()
	write := func(user, sub string) asked {
		o := object{"metadata": object{"name": "web"}}
		return asked{user: user, operation: "UPDATE", resource: "niximages", subresource: sub, before: o, object: o}
	}
	checkBuilds(t, "closured-build-status", map[string]struct {
		asked asked
		says  string
	}{
		"the controller":                  {write(theController, "status"), ""},
		"somebody":                        {write(anybody, "status"), "and nobody else"},
		"a cluster's administrator":       {write("kubernetes-admin", "status"), "and nobody else"},
		"somebody changes what is wished": {write(anybody, ""), ""},
	})
}

// TestEveryPolicyIsBound: a policy without a binding says nothing.
func TestEveryPolicyIsBound(t *testing.T) {
	t.Parallel()
	for source, objects := range niximageSources(t) {
		requireBound(t, source, objects)
	}
}

func requireBound(t *testing.T, source string, objects []object) {
	t.Helper()
	policies := 0
	for _, o := range objects {
		if o["kind"] != "ValidatingAdmissionPolicy" {
			continue
		}
		policies++
		name, _ := at(o, "metadata", "name").(string)
		binding := find(t, objects, "ValidatingAdmissionPolicyBinding", name)
		actions, _ := at(binding, "spec", "validationActions").([]any)
		if at(binding, "spec", "policyName") != name || len(actions) != 1 || actions[0] != "Deny" || at(o, "spec", "failurePolicy") != "Fail" {
			t.Errorf("%s: %s is bound by %v", source, name, binding["spec"])
		}
	}
	if policies != 5 {
		t.Errorf("%s: there are %d policies", source, policies)
	}
}
