package nixcli

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/closured/closured/nixstore"
)

// confName is the name that Nix looks for in NIX_CONF_DIR.
const confName = "nix.conf"

// setting is one line of nix.conf.
type setting struct{ name, value string }

// softOptions stand before the operator's nix.conf, which may change them.
// Times are in seconds. Nix's own defaults wait 300 s for a stalled cache, for
// ever for a silent builder, and believe for an hour that a cache lacks a path.
func softOptions() []setting {
	return []setting{
		// Nix's default without kvm, which it would bind into each builder's sandbox.
		{"system-features", "benchmark big-parallel nixos-test"},
		{"max-jobs", "auto"},
		{"connect-timeout", "10"},
		{"stalled-download-timeout", "30"},
		{"download-attempts", "3"},
		{"max-silent-time", "1800"},
		{"timeout", "7200"},
		{"narinfo-cache-negative-ttl", "10"},
		{"log-lines", fmt.Sprint(logLines)},
	}
}

// hardOptions stand after the operator's nix.conf and cannot be changed by
// Config.Options: they keep unsigned paths, unsandboxed builds and powerful
// clients out of the store.
func hardOptions() []setting {
	return []setting{
		{"require-sigs", "true"},
		{"sandbox", "true"},
		{"sandbox-fallback", "false"},
		{"allowed-users", "*"},
		{"trusted-users", "root"},
		{"accept-flake-config", "false"}, // a flake would choose keys and caches
	}
}

// aliases are older names of hard options, libstore/globals.hh of Nix 2.8.
func aliases() []string { return []string{"build-use-sandbox", "build-use-chroot"} }

// checkOption refuses names that are not settings and settings that must stay.
func checkOption(name, value string) error {
	if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || name[0] < 'a' {
		return invalid("use the name of a setting of nix.conf", "%s is not the name of a Nix option", nixstore.Quote(name))
	}
	if strings.ContainsAny(value, "\n\r\x00") {
		return invalid("give it in one line", "the value of the Nix option %s holds a newline", name)
	}
	base := strings.TrimPrefix(name, "extra-")
	fixed := slices.ContainsFunc(hardOptions(), func(s setting) bool { return s.name == base }) ||
		slices.Contains(aliases(), base)
	if fixed {
		return invalid("remove it", "the Nix option %s cannot be changed: builds are sandboxed, paths are signed and only root is trusted", name)
	}
	if base == "substituters" && slices.ContainsFunc(strings.Fields(value), hasTrusted) {
		return invalid("remove the parameter", "a substituter of the Nix option %s has the parameter \"trusted\", which switches signatures off", name)
	}
	return nil
}

// hasTrusted tells whether the address of a substituter switches signatures off.
func hasTrusted(address string) bool {
	_, query, _ := strings.Cut(address, "?")
	return slices.ContainsFunc(strings.Split(query, "&"), func(p string) bool { return strings.HasPrefix(p, "trusted=") })
}

// confText gives nix.conf: our defaults, then the operator's file, then the
// given options, and last what must hold. A later line replaces an earlier one.
func (c Config) confText(buildGroup string) []byte {
	var b bytes.Buffer
	b.WriteString("# Written by closured at each start; changes are lost.\n")
	writeSettings(&b, softOptions())
	fmt.Fprintf(&b, "!include %s\n", c.OperatorConf)
	writeSettings(&b, c.ownOptions(buildGroup))
	return b.Bytes()
}

// ownOptions are the lines that win over the operator's nix.conf.
func (c Config) ownOptions(buildGroup string) []setting {
	own := []setting{
		{"build-users-group", buildGroup},
		{"experimental-features", "nix-command flakes"},
		{"min-free", "0"}, // a collection in the middle of a build breaks it, nix#2285
	}
	if len(c.Substituters) > 0 {
		own = append(own, setting{"substituters", strings.Join(c.Substituters, " ")})
	}
	if len(c.TrustedPublicKeys) > 0 {
		own = append(own, setting{"trusted-public-keys", strings.Join(c.TrustedPublicKeys, " ")})
	}
	for _, name := range slices.Sorted(maps.Keys(c.Options)) {
		own = append(own, setting{name, c.Options[name]})
	}
	return append(own, hardOptions()...)
}

func writeSettings(b *bytes.Buffer, settings []setting) {
	for _, s := range settings {
		fmt.Fprintf(b, "%s = %s\n", s.name, s.value)
	}
}

// clientConf is the nix.conf of unprivileged clients. It holds no address and
// no token, since whoever may read it is not trusted.
func clientConf() []byte {
	var b bytes.Buffer
	b.WriteString("# Written by closured at each start; changes are lost.\n")
	writeSettings(&b, []setting{
		{"experimental-features", "nix-command flakes"},
		{"substituters", ""},
		{"build-users-group", ""},
		{"accept-flake-config", "false"},
	})
	return b.Bytes()
}

// writeConf writes both files. That of the daemon may hold tokens: only its
// owner reads it.
func (c Config) writeConf() error {
	group, err := buildGroup("/etc/group")
	if err != nil {
		return err
	}
	if err := writeFile(c.confDir(), c.confText(group), 0o600); err != nil {
		return err
	}
	return writeFile(c.clientConfDir(), clientConf(), 0o644)
}

func (c Config) confDir() string       { return filepath.Join(c.StateDir, "etc", "nix") }
func (c Config) clientConfDir() string { return filepath.Join(c.StateDir, "etc", "nix-client") }

// writeFile replaces <dir>/nix.conf at once: a reader sees the old file or the
// new one.
func writeFile(dir string, data []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("writing nix.conf: %w", err)
	}
	file, err := os.CreateTemp(dir, ".nix.conf-")
	if err != nil {
		return fmt.Errorf("writing nix.conf: %w", err)
	}
	defer func() { _ = os.Remove(file.Name()) }() // not there any more when all went well
	_, err = file.Write(data)
	err = errors.Join(err, file.Chmod(mode), file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), filepath.Join(dir, confName))
	}
	if err != nil {
		return fmt.Errorf("writing nix.conf: %w", err)
	}
	return nil
}

// buildGroup gives the group of the build users, or "" when it has no members
// and builds run as this user: Nix refuses every build for an empty group.
func buildGroup(groupFile string) (string, error) {
	const name = "nixbld" // Nix's default
	data, err := os.ReadFile(groupFile)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("looking for the group of the build users: %w", err)
	}
	for scanner := bufio.NewScanner(bytes.NewReader(data)); scanner.Scan(); {
		fields := strings.Split(scanner.Text(), ":")
		if len(fields) == 4 && fields[0] == name && fields[3] != "" {
			return name, nil
		}
	}
	return "", nil
}
