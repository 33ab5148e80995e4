package nixeval

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/nixeval/jail"
)

const (
	stdoutMax = 4 << 20 // bytes of JSON; nixpkgs has about 600 KB of names on its first level
	stderrMax = 64 << 10
	tmpBytes  = 64 << 20
	// processesMax is far above what Nix starts: the kernel counts all processes
	// of the user on the machine, and nobody has others.
	processesMax = 4096
	socketInJail = "/run/nix-daemon.sock"
	storeInJail  = "/store" // what StoreRoot is outside
	certsInJail  = "/etc/ssl/certs/ca-certificates.crt"
)

// programs is where Nix is, and what it needs to run.
type programs struct {
	dir   string // of nix and nix-instantiate
	path  string // PATH in the jail
	binds []jail.Bind
	links map[string]string
}

// findPrograms finds Nix and what must be seen for it to start: the machine's
// /usr, or the /nix/store that it is part of.
func findPrograms(cfg *Config) (programs, error) {
	dir, err := cfg.findPrograms()
	if err != nil {
		return programs{}, err
	}
	p := programs{dir: dir, links: map[string]string{}}
	var folders []string
	for _, name := range []string{"nix", "nix-instantiate"} {
		path, err := filepath.EvalSymlinks(filepath.Join(dir, name))
		if err != nil {
			return programs{}, fmt.Errorf("finding Nix: %w", err)
		}
		folders = append(folders, filepath.Dir(path))
	}
	path := []string{dir}
	if git, err := exec.LookPath("git"); err == nil { // only flakes of the scheme git+… need it
		if git, err = filepath.EvalSymlinks(git); err == nil {
			path = append(path, filepath.Dir(git))
			folders = append(folders, filepath.Dir(git))
		}
	}
	p.path = strings.Join(append(path, "/usr/bin", "/bin"), ":")
	p.showFolders(append(folders, dir))
	return p, p.showSystem()
}

// showFolders shows what lies outside /usr.
func (p *programs) showFolders(dirs []string) {
	for _, dir := range dirs {
		if strings.HasPrefix(dir, nixstore.Dir+"/") {
			dir = nixstore.Dir
		}
		under := strings.HasPrefix(dir, "/usr/") || dir == "/bin" || dir == "/sbin"
		if !under && !slices.ContainsFunc(p.binds, func(b jail.Bind) bool { return b.To == dir }) {
			p.binds = append(p.binds, jail.Bind{From: dir, To: dir})
		}
	}
}

// showSystem shows /usr and the names that lead into it, where there are such.
func (p *programs) showSystem() error {
	for _, dir := range []string{"/usr", "/bin", "/sbin", "/lib", "/lib64"} {
		info, err := os.Lstat(dir)
		switch {
		case err != nil:
			continue
		case info.IsDir():
			p.binds = append(p.binds, jail.Bind{From: dir, To: dir})
		case info.Mode()&os.ModeSymlink != 0:
			target, err := os.Readlink(dir)
			if err != nil {
				return fmt.Errorf("finding the system's libraries: %w", err)
			}
			p.links[dir] = target
		}
	}
	return nil
}

// spec furnishes the jail of a job.
func (e *Evaluator) spec(j *job) (jail.Spec, error) {
	s := jail.Spec{
		Args: slices.Clone(j.args), Dir: "/tmp", Devs: true,
		Proc:  true, // Nix from 2.20 on asks /proc/self/exe where its programs are
		Env:   e.env(j),
		Binds: slices.Concat(e.programs.binds, []jail.Bind{{From: e.cfg.Socket, To: socketInJail}}, j.binds),
		Links: e.programs.links,
		Files: map[string][]byte{
			"/etc/passwd":        fmt.Appendf(nil, "root:x:0:0::/:/bin/false\neval:x:%d:%d::/tmp:/bin/false\n", e.cfg.UID, e.cfg.GID),
			"/etc/group":         fmt.Appendf(nil, "root:x:0:\neval:x:%d:\n", e.cfg.GID),
			"/etc/nsswitch.conf": []byte("passwd: files\ngroup: files\nhosts: files dns\n"),
			"/etc/nix/nix.conf":  e.conf(j),
		},
		UID: e.cfg.UID, GID: e.cfg.GID, Network: j.network,
		MemoryBytes: e.cfg.MemoryBytes, FileBytes: tmpBytes, TmpBytes: tmpBytes, Processes: processesMax,
		Timeout: e.cfg.Timeout,
	}
	s.Args[0] = filepath.Join(e.programs.dir, s.Args[0])
	for name, data := range j.files {
		s.Files[filepath.Join(evalDir, name)] = data
	}
	if j.store || e.cfg.AllowIFD {
		e.showStore(&s)
	}
	if j.cache && e.cfg.CacheDir != "" {
		s.Binds = append(s.Binds, jail.Bind{From: e.cfg.CacheDir, To: cacheDir, Writable: true})
	}
	if j.network {
		s.FileBytes, s.TmpBytes = e.cfg.MemoryBytes, e.cfg.MemoryBytes // sources are unpacked in /tmp
		if err := addNetworkFiles(s.Files); err != nil {
			return jail.Spec{}, err
		}
	}
	return s, nil
}

// showStore shows the physical store.
func (e *Evaluator) showStore(s *jail.Spec) {
	bind := jail.Bind{From: filepath.Join(e.cfg.StoreRoot, nixstore.Dir), To: nixstore.Dir}
	if e.cfg.StoreRoot != "/" {
		bind.To = filepath.Join(storeInJail, nixstore.Dir)
	}
	if !slices.ContainsFunc(s.Binds, func(b jail.Bind) bool { return b.To == bind.To }) {
		s.Binds = append(s.Binds, bind)
	}
}

func (e *Evaluator) env(j *job) []string {
	remote := "unix://" + socketInJail
	if e.cfg.StoreRoot != "/" {
		remote += "?root=" + storeInJail
	}
	env := []string{
		"HOME=/tmp", "TMPDIR=/tmp", "PATH=" + e.programs.path, "LC_ALL=C", "TERM=dumb", "NO_COLOR=1",
		"NIX_REMOTE=" + remote, "NIX_CONF_DIR=/etc/nix", "NIX_USER_CONF_FILES=",
		// The collector would take a quarter of the machine's memory at once.
		fmt.Sprintf("GC_INITIAL_HEAP_SIZE=%d", min(e.cfg.MemoryBytes/8, 128<<20)),
	}
	if j.cache && e.cfg.CacheDir != "" {
		env = append(env, "XDG_CACHE_HOME="+cacheDir)
	}
	if j.network {
		env = append(env, "NIX_SSL_CERT_FILE="+certsInJail, "SSL_CERT_FILE="+certsInJail,
			"GIT_SSL_CAINFO="+certsInJail, "GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_NOSYSTEM=1")
		env = append(env, e.cfg.Env...)
	}
	return env
}

// settings are lines of nix.conf by name.
type settings map[string]string

func (s settings) has(name string) bool {
	_, ok := s[strings.TrimPrefix(name, "extra-")]
	return ok
}

// fixedSettings hold for every evaluation, whatever Config.Settings says.
func fixedSettings() settings {
	return settings{
		"accept-flake-config":                        "false", // a flake would choose keys and caches
		"allow-unsafe-native-code-during-evaluation": "false",
		"allow-import-from-derivation":               "false",
		"allowed-uris":                               "",
		// Without flakes: fetchTree and getFlake of Nix 2.8 mind restrict-eval not at all.
		"experimental-features": "",
		"plugin-files":          "",
		"pure-eval":             "false",
		"restrict-eval":         "false",
		"substituters":          "",
	}
}

// conf gives the evaluator's nix.conf. A later line replaces an earlier one.
func (e *Evaluator) conf(j *job) []byte {
	var b bytes.Buffer
	write := func(s settings) {
		for _, name := range slices.Sorted(maps.Keys(s)) {
			fmt.Fprintf(&b, "%s = %s\n", name, s[name])
		}
	}
	write(settings{"connect-timeout": "10", "download-attempts": "2", "eval-cache": "false", "warn-dirty": "false"})
	write(e.cfg.Settings)
	fixed := fixedSettings()
	maps.Copy(fixed, j.settings)
	if e.cfg.AllowIFD {
		fixed["allow-import-from-derivation"] = "true"
		delete(fixed, "substituters") // what is imported may come from the daemon's caches
	}
	write(fixed)
	return b.Bytes()
}

// addNetworkFiles adds what names and certificates are looked up in.
func addNetworkFiles(files map[string][]byte) error {
	for _, name := range []string{"/etc/resolv.conf", "/etc/hosts"} {
		data, err := os.ReadFile(name)
		if err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("preparing the network of an evaluation: %w", err)
		}
		files[name] = data
	}
	// Debian, Fedora, Alpine, and an image made by Nix.
	for _, name := range []string{
		certsInJail, "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem", "/etc/ssl/certs/ca-bundle.crt",
		"/nix/var/nix/profiles/default/etc/ssl/certs/ca-bundle.crt",
	} {
		if data, err := os.ReadFile(name); err == nil {
			files[certsInJail] = data
			return nil
		}
	}
	return nil // without certificates https fails, and says so
}
