package hosts_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/registry/hosts"
)

const (
	usual = "/etc/containerd/certs.d"
	v1    = "[plugins.cri.registry]\n"
	v2    = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\n"
	v3    = "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\n"
	v4    = "version = 4\n[plugins.'io.containerd.cri.v1.images'.registry]\n"
	path  = "config_path = \"/etc/containerd/certs.d\"\n"
)

func TestCheckContainerd(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		files map[string]string // config.toml is what containerd reads first
		certs string            // default: usual
		says  []string          // nothing: all is well
	}{
		"version 1":                       {files: map[string]string{"config.toml": v1 + path}},
		"version 2":                       {files: map[string]string{"config.toml": v2 + path}},
		"version 3":                       {files: map[string]string{"config.toml": v3 + path}},
		"version 4":                       {files: map[string]string{"config.toml": v4 + path}},
		"no file, as in a container":      {},
		"an import":                       {files: map[string]string{"config.toml": "version = 3\nimports = ['conf.d/*.toml']\n", "conf.d/a.toml": v3 + path}},
		"an import of another version":    {files: map[string]string{"config.toml": "version = 3\nimports = ['conf.d/*.toml']\n", "conf.d/a.toml": v2 + path}},
		"imports that import each other":  {files: map[string]string{"config.toml": "version = 3\nimports = ['a.toml']\n", "a.toml": "version = 3\nimports = ['config.toml', 'a.toml']\n[plugins.'io.containerd.cri.v1.images'.registry]\n" + path}},
		"an import without a value":       {files: map[string]string{"config.toml": "imports = ['a.toml']\n" + v3 + path, "a.toml": v3 + "config_path = ''\n"}},
		"a folder of imports that is not": {files: map[string]string{"config.toml": "imports = ['/nonexistent/*.toml']\n" + v3 + path}},
		"k3s":                             {files: map[string]string{"config.toml": v3 + "config_path = '" + hosts.K3sCertsDir + "'\n"}, certs: hosts.K3sCertsDir},

		"version 2 with nothing": {
			files: map[string]string{"config.toml": "version = 2\n"},
			says:  []string{`under [plugins."io.containerd.grpc.v1.cri".registry] add config_path = "/etc/containerd/certs.d"`, "config.toml", "restart containerd"},
		},
		"version 3 with nothing": {
			files: map[string]string{"config.toml": "version = 3\n"},
			says:  []string{`under [plugins."io.containerd.cri.v1.images".registry] add config_path = "/etc/containerd/certs.d"`},
		},
		"version 4 with nothing":              {files: map[string]string{"config.toml": "version = 4\n"}, says: []string{"does not read", "io.containerd.cri.v1.images"}},
		"one of two folders":                  {files: map[string]string{"config.toml": v3 + "config_path = '/etc/containerd/certs.d:/etc/docker/certs.d'\n"}, says: []string{"from 2.1 on reads none", `as config_path = "/etc/containerd/certs.d"`}},
		"an empty file":                       {files: map[string]string{"config.toml": ""}, says: []string{`[plugins."cri".registry]`}},
		"an empty value":                      {files: map[string]string{"config.toml": v2 + "config_path = ''\n"}, says: []string{"add config_path"}},
		"the table of another version":        {files: map[string]string{"config.toml": strings.Replace(v2, "2", "3", 1) + path}, says: []string{"io.containerd.cri.v1.images"}},
		"an unusual folder with nothing":      {files: map[string]string{"config.toml": "version = 4\n"}, certs: "/srv/certs.d", says: []string{"containerd does not read /srv/certs.d"}},
		"another folder":                      {files: map[string]string{"config.toml": v3 + "config_path = '/etc/docker/certs.d'\n"}, says: []string{"--containerd-certs-dir \"/etc/docker/certs.d\""}},
		"another folder by an import":         {files: map[string]string{"config.toml": "imports = ['a.toml']\n" + v3 + path, "a.toml": v3 + "config_path = '/x'\n"}, says: []string{"--containerd-certs-dir \"/x\"", "a.toml"}},
		"mirrors, which exclude the folder":   {files: map[string]string{"config.toml": v2 + "[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"docker.io\"]\nendpoint = []\n"}, says: []string{"move registry.mirrors", "restart"}},
		"an import that is not there":         {files: map[string]string{"config.toml": "imports = ['none.toml']\n"}, says: []string{"none.toml, which is imported, is not there"}},
		"a pattern that is none":              {files: map[string]string{"config.toml": "imports = ['[*.toml']\n"}, says: []string{"it is unknown"}},
		"a file that is not TOML":             {files: map[string]string{"config.toml": "version = 3\npassword = geheim\n"}, says: []string{"line 2 of", "config.toml"}},
		"a key of another type":               {files: map[string]string{"config.toml": "version = 'geheim'\n"}, says: []string{"config.toml"}},
		"tables that are something else":      {files: map[string]string{"config.toml": "version = 3\n[plugins]\n'io.containerd.cri.v1.images' = 1\n"}, says: []string{"add config_path"}},
		"a value that is something else":      {files: map[string]string{"config.toml": v3 + "config_path = 3\nmirrors = 4\n"}, says: []string{"add config_path"}},
		"a value that is a list of something": {files: map[string]string{"config.toml": v3 + "config_path = ['/etc/containerd/certs.d']\n"}, says: []string{"add config_path"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for file, text := range test.files {
				lay(t, filepath.Join(dir, file), text)
			}
			certs := test.certs
			if certs == "" {
				certs = usual
			}
			checkWarning(t, hosts.CheckContainerd(filepath.Join(dir, "config.toml"), certs), test.says)
		})
	}
}

func checkWarning(t *testing.T, err error, says []string) {
	t.Helper()
	if err == nil {
		if len(says) > 0 {
			t.Errorf("there is no warning, want %q", says)
		}
		return
	}
	if len(says) == 0 {
		t.Errorf("it warns: %v", err)
	}
	for _, words := range says {
		if !strings.Contains(err.Error(), words) {
			t.Errorf("%q does not say %q", err, words)
		}
	}
	if strings.Contains(err.Error(), "geheim") {
		t.Errorf("%q quotes the file", err)
	}
}

func TestTheFolderMayHaveAnotherName(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	certs, other := filepath.Join(dir, "certs.d"), filepath.Join(dir, "other")
	if err := errors.Join(os.Mkdir(certs, 0o755), os.Symlink(certs, other)); err != nil {
		t.Fatal(err)
	}
	lay(t, filepath.Join(dir, "config.toml"), v3+"config_path = '"+other+"'\n")
	if err := hosts.CheckContainerd(filepath.Join(dir, "config.toml"), certs); err != nil {
		t.Error(err)
	}
}

func TestWhatIsNoFileIsNotRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fifo := filepath.Join(dir, "config.toml")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, dir} {
		checkWarning(t, hosts.CheckContainerd(path, usual), []string{"it is unknown whether containerd reads " + usual, "is not a file"})
	}
	many := filepath.Join(dir, "many")
	for name := range 70 {
		lay(t, filepath.Join(many, string(rune('A'+name))+".toml"), "version = 3\n")
	}
	lay(t, filepath.Join(dir, "first.toml"), "imports = ['many/*']\n")
	checkWarning(t, hosts.CheckContainerd(filepath.Join(dir, "first.toml"), usual), []string{"more than 64 files"})
}

// FuzzCheckContainerd: any configuration gives an answer, of one line.
func FuzzCheckContainerd(f *testing.F) {
	for _, seed := range []string{v1 + path, v2 + path, v3 + path, "version = 3\n[plugins]\n'io.containerd.cri.v1.images' = 1\n", v3 + "config_path = '/a\\nb'", v3 + "config_path = \"/a\\nb\"", "a = [", "\x00", "imports = ['*', '../*']"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if strings.Contains(string(text), "imports") {
			t.Skip("it may name any file")
		}
		file := filepath.Join(t.TempDir(), "config.toml")
		lay(t, file, string(text))
		if err := hosts.CheckContainerd(file, usual); err != nil && (!utf8.ValidString(err.Error()) || strings.ContainsAny(err.Error(), "\n\x00")) {
			t.Errorf("it says %q", err)
		}
	})
}
