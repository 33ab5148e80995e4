package buildjob

import (
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/closured/closured/api/v1alpha1"
)

// The flags of the program's report command.
const (
	Command         = "report"
	FlagSystem      = "system"
	FlagCache       = "cache-dir"
	FlagCompression = "compression"
	FlagEntrypoint  = "entrypoint"
	FlagCmd         = "cmd"
	FlagEnv         = "env"
	FlagPort        = "port"
	FlagLabel       = "label"
	FlagUser        = "user"
	FlagWorkingDir  = "working-dir"
)

// Args gives the arguments of the build pod's container. Each value has an
// argument of its own, because Linux bounds one to 128 KiB (execve(2)).
func Args(config v1alpha1.ImageConfig, system v1alpha1.System, compression string) []string {
	args := []string{Command}
	add := func(flag string, values ...string) {
		for _, v := range values {
			args = append(args, "--"+flag+"="+escape(v))
		}
	}
	add(FlagSystem, string(system))
	add(FlagCache, mountCache+"/digests")
	if compression != "" {
		add(FlagCompression, compression)
	}
	add(FlagEntrypoint, config.Entrypoint...)
	add(FlagCmd, config.Cmd...)
	add(FlagEnv, config.Env...)
	add(FlagPort, config.ExposedPorts...)
	for _, key := range slices.Sorted(maps.Keys(config.Labels)) {
		add(FlagLabel, url.QueryEscape(key)+"="+string(config.Labels[key])) // a key may hold "="
	}
	if config.User != "" {
		add(FlagUser, config.User)
	}
	if config.WorkingDir != "" {
		add(FlagWorkingDir, config.WorkingDir)
	}
	return args
}

// escape keeps kubelet from replacing $(NAME) in an argument ("Define Dependent
// Environment Variables"): $$ stands for $.
func escape(s string) string { return strings.ReplaceAll(s, "$", "$$") }
