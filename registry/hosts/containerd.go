package hosts

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/closured/closured/nixstore"
)

const (
	// ContainerdConfig is where containerd looks for its configuration.
	ContainerdConfig = "/etc/containerd/config.toml"
	// configsMax and configMax bound what is read of a configuration and its imports:
	// files, and bytes of each.
	configsMax = 64
	configMax  = 4 << 20
	// versionOf12 and versionOf20 are the versions of the files that containerd 1.2
	// (and before) and 2.0 brought; a file that does not say its version is of the first.
	versionOf12 = 1
	versionOf20 = 3
)

// CheckContainerd looks whether the configuration of containerd in file, or in
// what it imports, lets containerd read certsDir. The error is a warning for the
// operator, which names the file and the line to add: the configuration may be
// that of another containerd, and only a restart of it shows what it does. It is
// nil when all is well, and also when there is no such file: containerd then runs
// by its defaults, or the agent is in a container, which does not see the file.
func CheckContainerd(file, certsDir string) error {
	found, err := readConfigs(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return nixstore.Fail(nixstore.ErrUnavailable, fmt.Sprintf("see for yourself that its config_path names %s", certsDir),
			"it is unknown whether containerd reads %s: %v", certsDir, err)
	}
	return found.judge(certsDir)
}

// settings is what the files together say.
type settings struct {
	file       string // the file that was asked for
	version    int    // its version
	configPath string // of the last file that has one
	setIn      string // that file
	mirrorsIn  string // a file with the older way, which excludes config_path
}

// judge gives the warning, if there is one.
func (s *settings) judge(certsDir string) error {
	table := fmt.Sprintf("[plugins.%q.registry]", registryPlugin(s.version))
	line := fmt.Sprintf("config_path = %q", certsDir)
	add := fmt.Sprintf("in %s under %s add %s and restart containerd", s.file, table, line)
	switch folders := filepath.SplitList(s.configPath); {
	case len(folders) == 1 && same(folders[0], certsDir):
		return nil
	case len(folders) > 1:
		// Its transfer service, which pulls by default since 2.1, takes the list for the
		// name of one folder (containerd/containerd#12415, seen with 2.3.7).
		return nixstore.Fail(nixstore.ErrUnavailable,
			fmt.Sprintf("name one folder in %s, as %s, with all its hosts in it, and restart containerd", s.setIn, line),
			"containerd from 2.1 on reads none of the folders %s", nixstore.Quote(s.configPath))
	case s.configPath != "":
		return nixstore.Fail(nixstore.ErrUnavailable, "start the agent with --containerd-certs-dir "+nixstore.Quote(folders[0]),
			"containerd reads %s (config_path in %s) and not %s, so that it does not find the registry", nixstore.Quote(s.configPath), s.setIn, certsDir)
	case s.mirrorsIn != "": // containerd does not start with both
		return nixstore.Fail(nixstore.ErrUnavailable,
			fmt.Sprintf("move registry.mirrors of %s into files of that folder, then %s", s.mirrorsIn, add),
			"containerd does not read %s", certsDir)
	}
	// Without config_path containerd 2.2 and 2.3 have such a list of two.
	return nixstore.Fail(nixstore.ErrUnavailable, add, "containerd does not read %s", certsDir)
}

// same tells whether two names are of one folder.
func same(a, b string) bool {
	if filepath.Clean(a) == filepath.Clean(b) {
		return true
	}
	infoA, errA := os.Stat(a)
	infoB, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(infoA, infoB)
}

// config is what we read of a file of containerd; the rest is not ours.
type config struct {
	Version int            `toml:"version"`
	Imports []string       `toml:"imports"`
	Plugins map[string]any `toml:"plugins"`
}

// readConfigs reads file and its imports in the order in which containerd does,
// each once: a later file overrides what it sets
// (cmd/containerd/server/config/config.go of 2.3, LoadConfig).
func readConfigs(file string) (settings, error) {
	s := settings{file: file}
	seen := map[string]bool{}
	for pending := []string{file}; len(pending) > 0; pending = pending[1:] {
		path := pending[0]
		if seen[path] {
			continue
		}
		if seen[path] = true; len(seen) > configsMax {
			return s, fmt.Errorf("%s imports more than %d files", file, configsMax)
		}
		c, err := readConfig(path)
		if path != file && errors.Is(err, fs.ErrNotExist) {
			return s, fmt.Errorf("%s, which is imported, is not there", path)
		}
		if err != nil {
			return s, err
		}
		if path == file {
			s.version = c.Version
		}
		s.take(path, c)
		imports, err := resolveImports(path, c.Imports)
		if err != nil {
			return s, err
		}
		pending = append(pending, imports...)
	}
	return s, nil
}

// take notes what one file says. Empty values override nothing.
func (s *settings) take(path string, c config) {
	registry := table(c.Plugins, registryPlugin(c.Version), "registry")
	if value, ok := registry["config_path"].(string); ok && value != "" {
		s.configPath, s.setIn = value, path
	}
	if mirrors, ok := registry["mirrors"].(map[string]any); ok && len(mirrors) > 0 {
		s.mirrorsIn = path
	}
}

// registryPlugin gives the plugin whose table "registry" counts in files of a
// version. Later containerds translate older files.
func registryPlugin(version int) string {
	switch {
	case version <= versionOf12:
		return "cri"
	case version < versionOf20:
		return "io.containerd.grpc.v1.cri"
	}
	return "io.containerd.cri.v1.images"
}

// table gives the table at a path of keys; nil when there is none.
func table(m map[string]any, keys ...string) map[string]any {
	for _, key := range keys {
		m, _ = m[key].(map[string]any)
	}
	return m
}

func readConfig(path string) (c config, err error) {
	// A FIFO or a device must not hold us.
	info, err := os.Stat(path)
	if err != nil {
		return c, err
	}
	if !info.Mode().IsRegular() {
		return c, fmt.Errorf("%s is not a file", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	text, err := io.ReadAll(io.LimitReader(file, configMax))
	if err != nil {
		return c, err
	}
	return parseConfig(path, text)
}

// parseConfig reads one file. What it holds beside the three keys does not count.
func parseConfig(path string, text []byte) (config, error) {
	var c config
	if err := toml.Unmarshal(text, &c); err != nil {
		// The text of the error may quote the file, which may hold passwords.
		if at, ok := errors.AsType[*toml.DecodeError](err); ok {
			line, _ := at.Position()
			return config{}, fmt.Errorf("line %d of %s is not TOML as containerd has it", line, path)
		}
		return config{}, fmt.Errorf("%s is not TOML as containerd has it", path)
	}
	return c, nil
}

// resolveImports gives the files that imports of the file parent name.
func resolveImports(parent string, imports []string) ([]string, error) {
	var files []string
	for _, path := range imports {
		if !filepath.IsAbs(path) {
			path = filepath.Join(filepath.Dir(parent), path)
		}
		path = filepath.Clean(path)
		if !strings.Contains(path, "*") {
			files = append(files, path)
			continue
		}
		matches, err := filepath.Glob(path)
		if err != nil {
			return nil, fmt.Errorf("an import of %s: %w", parent, err)
		}
		files = append(files, matches...)
	}
	return files, nil
}
