package closureimage_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/registry/closureimage"
)

func configOf(t *testing.T, i *closureimage.Image) v1.ConfigFile {
	t.Helper()
	var c v1.ConfigFile
	if err := json.Unmarshal(i.Config(), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestSettingsBecomeTheConfiguration(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	root := sample(t, s)
	want := spec(root, closureimage.Root)
	want.System = "aarch64-linux"
	want.Settings = closureimage.Settings{
		Entrypoint: []string{"/bin/app"}, Cmd: []string{"--flag"}, Env: []string{"A=b=c", "EMPTY="}, ExposedPorts: []string{"80", "53/udp"},
		User: "1000:1000", WorkingDir: "/tmp", Labels: map[string]string{"org.example/x": "ü <&>"},
	}
	c := configOf(t, mustImage(t, s.builder(t), want))
	if c.Architecture != "arm64" || c.Variant != "v8" || c.OS != "linux" || c.Created.Unix() != 1 || len(c.History) != len(c.RootFS.DiffIDs) {
		t.Errorf("the image is for %s/%s/%s, of %s, with %d of %d layers' histories", c.OS, c.Architecture, c.Variant, c.Created, len(c.History), len(c.RootFS.DiffIDs))
	}
	if !slices.Equal(c.Config.Entrypoint, []string{"/bin/app"}) || !slices.Equal(c.Config.Cmd, []string{"--flag"}) || c.Config.User != "1000:1000" || c.Config.WorkingDir != "/tmp" || c.Config.Labels["org.example/x"] != "ü <&>" {
		t.Errorf("the configuration is %+v", c.Config)
	}
	if len(c.Config.ExposedPorts) != 2 || c.Config.ExposedPorts["80/tcp"] != struct{}{} || c.Config.ExposedPorts["53/udp"] != struct{}{} {
		t.Errorf("the ports are %v", c.Config.ExposedPorts)
	}
	bundle := slices.IndexFunc(c.Config.Env, func(e string) bool {
		return strings.HasPrefix(e, "SSL_CERT_FILE=/nix/store/") && strings.HasSuffix(e, "-cacert-3.1/etc/ssl/certs/ca-bundle.crt")
	})
	if len(c.Config.Env) != 4 || c.Config.Env[0] != "PATH=/bin:/sbin" || bundle != 1 || !slices.Equal(c.Config.Env[2:], want.Settings.Env) {
		t.Errorf("the environment is %q", c.Config.Env)
	}
}

func TestTheUsersVariablesWin(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	want := spec(sample(t, s), closureimage.Root)
	want.Settings.Env = []string{"PATH=/mine", "SSL_CERT_FILE=", "PATHS=x"}
	b := s.builder(t)
	if env := configOf(t, mustImage(t, b, want)).Config.Env; !slices.Equal(env, want.Settings.Env) {
		t.Errorf("the environment is %q", env)
	}
	want.Form, want.Settings = closureimage.Volume, closureimage.Settings{}
	if env := configOf(t, mustImage(t, b, want)).Config.Env; len(env) != 0 {
		t.Errorf("a volume image has the environment %q", env)
	}
}

func TestWhatCannotBeSaidIsRefused(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	root := sample(t, s)
	b := s.builder(t)
	cases := map[string]func(*closureimage.Spec){
		"no root":                    func(c *closureimage.Spec) { c.Root = nixstore.StorePath{} },
		"an unknown form":            func(c *closureimage.Spec) { c.Form = 7 },
		"a system without images":    func(c *closureimage.Spec) { c.System = "x86_64-darwin" },
		"a system with odd bytes":    func(c *closureimage.Spec) { c.System = "\xff\n" },
		"a label that is no UTF-8":   func(c *closureimage.Spec) { c.Settings.Labels = map[string]string{"a": "\xff"} },
		"a label's name likewise":    func(c *closureimage.Spec) { c.Settings.Labels = map[string]string{"\xc3": "a"} },
		"a label without a name":     func(c *closureimage.Spec) { c.Settings.Labels = map[string]string{"": "a"} },
		"a NUL in the command":       func(c *closureimage.Spec) { c.Settings.Cmd = []string{"a\x00b"} },
		"a user that is no UTF-8":    func(c *closureimage.Spec) { c.Settings.User = "\xff" },
		"a variable without a value": func(c *closureimage.Spec) { c.Settings.Env = []string{"A"} },
		"a variable without a name":  func(c *closureimage.Spec) { c.Settings.Env = []string{"=a"} },
		"port zero":                  func(c *closureimage.Spec) { c.Settings.ExposedPorts = []string{"0"} },
		"a port too high":            func(c *closureimage.Spec) { c.Settings.ExposedPorts = []string{"65536"} },
		"a port with a sign":         func(c *closureimage.Spec) { c.Settings.ExposedPorts = []string{"+80"} },
		"a port with zeros":          func(c *closureimage.Spec) { c.Settings.ExposedPorts = []string{"080"} },
		"an unknown protocol":        func(c *closureimage.Spec) { c.Settings.ExposedPorts = []string{"80/http"} },
		"a relative folder":          func(c *closureimage.Spec) { c.Settings.WorkingDir = "tmp" },
		"too much of it":             func(c *closureimage.Spec) { c.Settings.Cmd = []string{strings.Repeat("x", 33<<10)} },
	}
	for name, spoil := range cases {
		c := spec(root, closureimage.Root)
		spoil(&c)
		_, err := b.Image(t.Context(), c)
		if !errors.Is(err, nixstore.ErrInvalid) {
			t.Errorf("%s gave %v", name, err)
		} else if text := err.Error(); len(text) > 500 || !utf8.ValidString(text) || strings.ContainsAny(text, "\x00\n") {
			t.Errorf("%s gave the text %q", name, text)
		}
	}
}

func FuzzSettings(f *testing.F) {
	f.Add("A=b", "80/tcp", "root", "/", "label", "value")
	f.Add("\xff", "65536", "\x00", "x", "", "\u2028")
	f.Fuzz(func(t *testing.T, env, port, user, dir, label, value string) {
		s := newStore(t)
		c := spec(s.add(t, "x", files{"": "x"}), closureimage.Volume)
		c.Settings = closureimage.Settings{
			Entrypoint: []string{value}, Env: []string{env}, ExposedPorts: []string{port}, User: user, WorkingDir: dir,
			Labels: map[string]string{label: value},
		}
		i, err := s.builder(t).Image(t.Context(), c)
		if err != nil {
			if !errors.Is(err, nixstore.ErrInvalid) {
				t.Errorf("refused with %v", err)
			}
			return
		}
		got := configOf(t, i).Config
		if got.Env[0] != env || got.User != user || got.WorkingDir != dir || got.Labels[label] != value || got.Entrypoint[0] != value || len(got.ExposedPorts) != 1 {
			t.Errorf("%+v became %+v", c.Settings, got)
		}
	})
}

func TestNewSaysAllThatIsWrong(t *testing.T) {
	t.Parallel()
	_, err := closureimage.New(closureimage.Config{StoreDir: "store", CacheDir: "", Compression: 9, Workers: -1})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"StoreDir", "CacheDir", "Closures", "compression", "workers"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q lacks %s", err, want)
		}
	}
}

func TestCompressionsHaveNames(t *testing.T) {
	t.Parallel()
	for _, c := range allCompressions {
		if got, ok := closureimage.ParseCompression(c.String()); !ok || got != c {
			t.Errorf("%s is read as %s", c, got)
		}
	}
	if _, ok := closureimage.ParseCompression("lz4"); ok {
		t.Error("lz4 is known")
	}
}
