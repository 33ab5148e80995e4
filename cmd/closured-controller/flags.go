package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/closured/closured/controller"
	"github.com/closured/closured/controller/buildjob"
	"github.com/closured/closured/registry/closureimage"
)

// settings are what the flags say.
type settings struct {
	build          buildjob.Settings
	rules          controller.Rules
	compression    closureimage.Compression
	kubeconfig     string
	namespace      string
	leaderElection bool
	healthAddress  string
	metricsAddress string
	workers        int
	logLevel       slog.Level
	version        bool
}

// parseFlags reads the command line. It tells out of mistakes, and of the flags.
func parseFlags(args []string, out io.Writer) (settings, error) {
	var s settings
	f := flag.NewFlagSet("closured-controller", flag.ContinueOnError)
	f.SetOutput(out)
	s.define(f)
	if err := f.Parse(args); err != nil {
		return settings{}, err
	}
	s.build.Compression, s.rules.Making = s.compression.String(), closureimage.Making(s.compression)
	return s, s.check(f)
}

func (s *settings) define(f *flag.FlagSet) {
	f.StringVar(&s.build.Image, "build-image", "", "`image` of build pods, which has this program; left out: that of the pod that it runs in")
	f.Func("build-image-pull-policy", "Always, IfNotPresent or Never; left out: as Kubernetes decides", func(v string) error {
		s.build.PullPolicy = corev1.PullPolicy(v)
		return oneOf(v, "Always", "IfNotPresent", "Never")
	})
	f.Func("build-image-pull-secret", "`name` of a Secret in the object's namespace that build pods pull their image with; repeatable", func(v string) error {
		s.build.PullSecrets = append(s.build.PullSecrets, v)
		return nameOf(v)
	})
	f.Func("build-command", "`program` in the build image; left out: closured-controller", func(v string) error {
		s.build.Command = []string{v}
		return nil
	})
	f.StringVar(&s.build.Driver, "driver-name", "csi.closured.dev", "name of the CSI driver of build pods' volumes")
	f.TextVar(&s.compression, "registry-compression", closureimage.None, "none, gzip or zstd: that of the registries' layers, on which digests depend")
	f.Func("build-requests", "`resources` that a build pod asks for, as cpu=10m,memory=64Mi (default cpu=10m,memory=64Mi)", resources(&s.build.Requests))
	f.Func("build-limits", "`resources` that a build pod may use (default memory=512Mi)", resources(&s.build.Limits))
	f.Func("build-node-selector", "`label=value` of the nodes that may build; repeatable", s.nodeSelector)
	f.Func("build-toleration", "taint that build pods accept, as `key[=value][:effect]`; repeatable", s.toleration)
	f.DurationVar(&s.build.Deadline, "build-deadline", time.Hour, "how long an attempt may take, waiting for a node included")
	f.StringVar(&s.rules.RegistryHost, "registry-host", "nix.internal", "host part of image names")
	f.DurationVar(&s.rules.Backoff, "retry-after", 30*time.Second, "how long after the first failure a build is tried again; doubles with each further one")
	f.DurationVar(&s.rules.BackoffMax, "retry-after-max", 30*time.Minute, "the longest time between two attempts")
	f.StringVar(&s.kubeconfig, "kubeconfig", "", "kubeconfig `file`; left out: the service account of the pod")
	f.BoolVar(&s.leaderElection, "leader-election", true, "wait while another controller leads")
	f.StringVar(&s.namespace, "leader-election-namespace", "", "namespace of the Lease; left out: the pod's own")
	f.StringVar(&s.healthAddress, "health-address", ":9859", "`address` of /healthz and /readyz; empty: nowhere")
	f.StringVar(&s.metricsAddress, "metrics-address", ":9860", "`address` of /metrics; empty: nowhere")
	f.IntVar(&s.workers, "workers", 4, "how many objects are worked on at once")
	f.TextVar(&s.logLevel, "log-level", slog.LevelInfo, "debug, info, warn or error")
	f.BoolVar(&s.version, "version", false, "print the version and end")
}

func (s *settings) check(f *flag.FlagSet) error {
	if s.version {
		return nil
	}
	var problems []error
	if f.NArg() > 0 {
		problems = append(problems, fmt.Errorf("%q is not a flag", f.Arg(0)))
	}
	if s.build.Deadline < time.Second {
		problems = append(problems, fmt.Errorf("--build-deadline %s is shorter than a second", s.build.Deadline))
	}
	if s.rules.Backoff <= 0 || s.rules.BackoffMax < s.rules.Backoff {
		problems = append(problems, fmt.Errorf("--retry-after %s up to --retry-after-max %s is no back-off", s.rules.Backoff, s.rules.BackoffMax))
	}
	return errors.Join(problems...)
}

func oneOf(v string, words ...string) error {
	if slices.Contains(words, v) {
		return nil
	}
	return errors.New("use one of " + strings.Join(words, ", "))
}

// nameOf checks the name of an object.
func nameOf(v string) error {
	if problems := validation.IsDNS1123Subdomain(v); problems != nil {
		return errors.New(strings.Join(problems, "; "))
	}
	return nil
}

// resources gives the parser of a list such as cpu=10m,memory=64Mi.
func resources(list *corev1.ResourceList) func(string) error {
	return func(v string) error {
		*list = corev1.ResourceList{}
		for word := range strings.SplitSeq(v, ",") {
			name, amount, ok := strings.Cut(word, "=")
			if v == "" {
				return nil // none at all
			}
			q, err := resource.ParseQuantity(amount)
			if !ok || err != nil || name == "" {
				return fmt.Errorf("%q is not written as cpu=10m", word)
			}
			(*list)[corev1.ResourceName(name)] = q
		}
		return nil
	}
}

func (s *settings) nodeSelector(v string) error {
	label, value, ok := strings.Cut(v, "=")
	if !ok || label == "" {
		return errors.New("write it as label=value")
	}
	if s.build.NodeSelector == nil {
		s.build.NodeSelector = map[string]string{}
	}
	s.build.NodeSelector[label] = value
	return nil
}

// toleration reads key, key=value, key:effect or key=value:effect.
func (s *settings) toleration(v string) error {
	rest, effect, _ := strings.Cut(v, ":")
	key, value, equal := strings.Cut(rest, "=")
	if key == "" {
		return errors.New("write it as key=value:effect")
	}
	t := corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffect(effect)}
	if equal {
		t.Operator, t.Value = corev1.TolerationOpEqual, value
	}
	s.build.Tolerations = append(s.build.Tolerations, t)
	if effect == "" {
		return nil
	}
	return oneOf(effect, "NoSchedule", "PreferNoSchedule", "NoExecute")
}
