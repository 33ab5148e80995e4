package deploy

import (
	"strings"
	"testing"
)

// TestBadValuesAreRefused: a mistake in values must not become objects.
func TestBadValuesAreRefused(t *testing.T) {
	t.Parallel()
	rule := func(v values) values { return values{"policy": values{"rules": []any{v}}} }
	build := func(v values) values { return values{"nixImage": values{"build": v}} }
	taint := func(v values) values { return build(values{"tolerations": []any{v}}) }
	tests := map[string]struct {
		set  values
		says string
	}{
		"a value that nobody reads":                 {values{"kubeletdir": "/x"}, "kubeletdir"},
		"an unknown value of the agent":             {values{"agent": values{"memory": "1Gi"}}, "memory"},
		"a relative folder of kubelet":              {values{"kubeletDir": "var/lib/kubelet"}, "kubeletDir"},
		"a folder of kubelet with ..":               {values{"kubeletDir": "/var/../lib"}, "kubeletDir"},
		"a state folder that ends in a slash":       {values{"stateDir": "/var/lib/closured/"}, "stateDir"},
		"the root as the state folder":              {values{"stateDir": "/"}, "stateDir"},
		"a state folder with a comma":               {values{"stateDir": "/var/lib/a,b"}, "stateDir"},
		"a driver's name with capitals":             {values{"driverName": "CSI.closured.dev"}, "driverName"},
		"a driver's name too long for a socket":     {values{"driverName": strings.Repeat("a", 41)}, "driverName"},
		"an image with a digest in the name":        {values{"image": values{"repository": "r@sha256:x"}}, "repository"},
		"a pull policy that there is not":           {values{"image": values{"pullPolicy": "Sometimes"}}, "pullPolicy"},
		"a policy without rules":                    {values{"policy": values{"rules": []any{}}}, "rules"},
		"a source that there is not":                {rule(values{"namespaces": []any{"*"}, "sources": []any{"flake"}}), "sources"},
		"a rule for no namespace":                   {rule(values{"namespaces": []any{}, "sources": []any{}}), "namespaces"},
		"a rule for flakes that says not which":     {rule(values{"namespaces": []any{"*"}, "sources": []any{"flakeRef"}}), "flakes"},
		"an unknown word in a rule":                 {rule(values{"namespaces": []any{"*"}, "sources": []any{}, "builds": true}), "builds"},
		"signatures switched off":                   {values{"nixConf": values{"require-sigs": false}}, "require-sigs"},
		"the sandbox switched off":                  {values{"nixConf": values{"sandbox": false}}, "sandbox"},
		"trusted users":                             {values{"nixConf": values{"trusted-users": "*"}}, "trusted-users"},
		"trusted users in another way":              {values{"nixConf": values{"extra-trusted-users": "*"}}, "trusted-users"},
		"a setting that smuggles in a line":         {values{"nixConf": values{"cores": "1\nsandbox = false"}}, "cores"},
		"a name of a setting that is two lines":     {values{"nixConf": values{"cores = 1\nsandbox": "false"}}, "does not match pattern"},
		"a log level that there is not":             {values{"agent": values{"logLevel": "trace"}}, "logLevel"},
		"a size of an evaluation in words":          {values{"agent": values{"evalMemory": "much"}}, "evalMemory"},
		"a timeout without a unit":                  {values{"agent": values{"evalTimeout": "60"}}, "evalTimeout"},
		"an argument that is no flag":               {values{"agent": values{"extraArgs": []any{"serve"}}}, "extraArgs"},
		"no node may be without an agent":           {values{"updateStrategy": values{"maxUnavailable": 0}}, "maxUnavailable"},
		"more than all nodes without an agent":      {values{"updateStrategy": values{"maxUnavailable": "200%"}}, "maxUnavailable"},
		"a surge, of which there cannot be one":     {values{"updateStrategy": values{"maxSurge": 1}}, "maxSurge"},
		"a switch in quotes":                        {values{"networkPolicy": values{"enabled": "yes"}}, "enabled"},
		"a taint that is no label key":              {values{"startupTaint": values{"enabled": true, "key": "not ready"}}, "key"},
		"a host of images on Docker Hub":            {values{"registry": values{"host": "nix"}}, "host"},
		"a host of images with a folder":            {values{"registry": values{"host": "nix.internal/a"}}, "host"},
		"a host of images that is the folder above": {values{"registry": values{"host": ".."}}, "host"},
		"a registry for everybody":                  {values{"registry": values{"address": "0.0.0.0:5858"}}, "address"},
		"a registry on a port of its choice":        {values{"registry": values{"address": "127.0.0.1:0"}}, "address"},
		"a compression that there is not":           {values{"registry": values{"compression": "xz"}}, "compression"},
		"a relative folder of containerd":           {values{"registry": values{"certsDir": "certs.d"}}, "certsDir"},
		"a value of NixImage that nobody reads":     {values{"nixImage": values{"enable": true}}, "enable"},
		"a number of controllers in words":          {values{"nixImage": values{"controller": values{"replicas": "two"}}}, "replicas"},
		"a pull policy of builds that there is not": {build(values{"pullPolicy": "Sometimes"}), "pullPolicy"},
		"pull secrets as pods write them":           {build(values{"imagePullSecrets": []any{values{"name": "a"}}}), "imagePullSecrets"},
		"a request in words":                        {build(values{"requests": values{"cpu": "some"}}), "requests"},
		"a limit that smuggles in another":          {build(values{"limits": values{"memory": "1Gi,cpu=1"}}), "limits"},
		"a deadline in milliseconds":                {build(values{"deadline": "100ms"}), "deadline"},
		"a deadline without a unit":                 {build(values{"deadline": "3600"}), "deadline"},
		"a label of nodes that is none":             {build(values{"nodeSelector": values{"a": "b c"}}), "nodeSelector"},
		"a toleration of everything":                {taint(values{"operator": "Exists"}), "tolerations"},
		"a toleration for some seconds":             {taint(values{"key": "a", "operator": "Exists", "tolerationSeconds": 5}), "tolerations"},
		"a toleration of any value, with one":       {taint(values{"key": "a", "operator": "Exists", "value": "b"}), "tolerations"},
		"a toleration of a value, without":          {taint(values{"key": "a", "operator": "Equal"}), "tolerations"},
		"the port of metrics, twice":                {values{"nixImage": values{"cache": values{"port": 9858}}}, "port"},
		"a name of a Secret with a slash":           {values{"nixImage": values{"cache": values{"secretName": "a/b"}}}, "secretName"},
		"an account that ends the expression":       {values{"nixImage": values{"admission": values{"kubelets": []any{`a", "system:authenticated`}}}}, "kubelets"},
		"nobody who makes the pods of Jobs":         {values{"nixImage": values{"admission": values{"jobControllers": []any{}}}}, "jobControllers"},
		"a test without a command":                  {values{"test": values{"command": []any{}}}, "command"},
		"an attribute of the test that is no text":  {values{"test": values{"attributes": values{"writable": true}}}, "writable"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := helm(test.set)
			if err == nil {
				t.Fatal("it was taken")
			}
			if !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v does not say %q", err, test.says)
			}
		})
	}
}

func TestGoodValuesAreTaken(t *testing.T) {
	t.Parallel()
	tests := map[string]values{
		"microk8s":           {"kubeletDir": "/var/snap/microk8s/common/var/lib/kubelet"},
		"a tag and a digest": {"image": values{"tag": "v1@sha256:" + strings.Repeat("0a", 32)}},
		"everything allowed": {"policy": values{"rules": []any{values{
			"namespaces": []any{"dev-*"}, "sources": []any{"flakeRef", "nixExpr"}, "flakes": []any{"github:our-org/*"}, "build": true,
		}}}},
		"another registry": {"registry": values{"host": "nix.internal:5000", "address": "127.1.2.3:80", "compression": "zstd"}},
		"settings of Nix":  {"nixConf": values{"netrc-file": "/etc/closured-netrc/netrc", "fallback": true, "max-jobs": "auto", "http-connections": 50}},
		"NixImage": {"nixImage": values{
			"enabled": true, "controller": values{"replicas": 2}, "cache": values{"port": 7000, "secretName": "key"},
			"admission": values{"jobControllers": []any{"system:serviceaccount:kube-system:job-controller"}},
			"build": values{
				"pullPolicy": "Always", "imagePullSecrets": []any{"registry"}, "requests": values{"cpu": "0.5"}, "limits": values{"cpu": 1, "memory": "1Gi"},
				"tolerations": []any{values{"key": "a", "operator": "Exists"}, values{"key": "a", "value": "b", "effect": "NoSchedule"}}, "deadline": "1h30m",
			},
		}},
		"one node at a time": {"updateStrategy": values{"maxUnavailable": 1}},
	}
	for name, set := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			chart(t, set)
		})
	}
}
