package main

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestFlagsFillWhatDependsOnOthers(t *testing.T) {
	t.Parallel()
	c, err := parseFlags([]string{
		"--state-dir", "/srv/closured", "--eval-memory=512Mi", "--eval-timeout", "2m", "--log-level", "debug",
		"--nix-option", "max-jobs = 2", "--nix-option=cores=1", "--substituter", "http://a", "--substituter", "http://b",
	}, "node-a", io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if c.storeRoot != "/srv/closured" || c.nodeName != "node-a" || c.evalMemory != 512<<20 || c.evalTimeout != 2*time.Minute || c.logLevel != slog.LevelDebug {
		t.Errorf("flags became %+v", c)
	}
	if got := c.nixOptions(); got["max-jobs"] != "2" || got["cores"] != "1" || len(got) != 2 {
		t.Errorf("nix options became %v", got)
	}
	if len(c.substituter) != 2 {
		t.Errorf("substituters became %v", c.substituter)
	}
}

func TestBadFlagsAreRefused(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"a relative folder":          {[]string{"--state-dir", "x"}, "--state-dir"},
		"a folder with dots":         {[]string{"--kubelet-dir", "/var/../x"}, "--kubelet-dir"},
		"the root as state":          {[]string{"--state-dir", "/"}, "of its own"},
		"an option without a value":  {[]string{"--nix-option", "cores"}, "name=value"},
		"an option with a new line":  {[]string{"--nix-option", "a=b\nrequire-sigs=false"}, "one line"},
		"a size that is none":        {[]string{"--eval-memory", "lots"}, "not a size"},
		"a duration that is not one": {[]string{"--eval-timeout", "0s"}, "--eval-timeout"},
		"a taint with its effect":    {[]string{"--startup-taint", "a=b:NoSchedule"}, "key alone"},
		"a relative kubeconfig":      {[]string{"--kubeconfig", "config"}, "--kubeconfig"},
		"a relative certs folder":    {[]string{"--containerd-certs-dir", "certs.d"}, "--containerd-certs-dir"},
		"an unknown compression":     {[]string{"--registry-compression", "xz"}, "zstd"},
		"images kept for no time":    {[]string{"--registry-keep", "0s"}, "--registry-keep"},
		"an argument":                {[]string{"serve"}, "flags only"},
		"an unknown flag":            {[]string{"--kubelet"}, "kubelet"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := parseFlags(tt.args, "node", io.Discard); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("parseFlags(%q): %v, want %q", tt.args, err, tt.want)
			}
		})
	}
	var help bytes.Buffer
	if _, err := parseFlags([]string{"-h"}, "node", &help); !errors.Is(err, flag.ErrHelp) || !strings.Contains(help.String(), "--state-dir") {
		t.Errorf("-h: %v, %q", err, help.String())
	}
}
