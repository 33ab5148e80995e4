package policy_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/closured/closured/driver/policy"
	"github.com/closured/closured/internal/logtest"
	"github.com/closured/closured/nixstore"
)

const (
	onlyImages = "rules:\n- {namespaces: ['*'], sources: [image]}\n"
	onlyPaths  = "rules:\n- {namespaces: ['*'], sources: [storePath]}\n"
)

// follow opens path and runs the file until the test ends.
func follow(t *testing.T, path string) (*policy.File, *prometheus.Registry, *logtest.Buffer) {
	t.Helper()
	log := &logtest.Buffer{}
	reg := prometheus.NewRegistry()
	f, err := policy.OpenFile(policy.FileConfig{
		Path: path, Every: 5 * time.Millisecond, Registerer: reg, Log: slog.New(slog.NewJSONHandler(log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return f, reg, log
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// eventually waits until ok holds, or fails the test after ten seconds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 2000 {
		if ok() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("this never came: %s", what)
}

func may(f *policy.File, kind nixstore.SourceKind) bool {
	_, err := f.Check("web", nixstore.Source{Kind: kind})
	return err == nil
}

// problemMetric gives the value of closured_policy_problem.
func problemMetric(t *testing.T, reg *prometheus.Registry) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == "closured_policy_problem" {
			return family.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatal("there is no closured_policy_problem")
	return 0
}

func TestFileIsReloaded(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "policy.yaml")
	write(t, path, onlyImages)
	f, _, log := follow(t, path)
	if !may(f, nixstore.SourceImage) || may(f, nixstore.SourceStorePath) {
		t.Fatal("the first rules do not hold")
	}
	write(t, path, onlyPaths)
	eventually(t, "the new rules", func() bool { return may(f, nixstore.SourceStorePath) && !may(f, nixstore.SourceImage) })
	eventually(t, "a line in the log", func() bool { return strings.Contains(log.String(), "policy reloaded") })
}

func TestFileFollowsTheLinksOfAConfigMap(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	// As kubelet does: policy.yaml -> ..data/policy.yaml, ..data -> ..<time>.
	for name, text := range map[string]string{"..1": onlyImages, "..2": onlyPaths} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name, "policy.yaml"), text)
	}
	link := func(target string) {
		t.Helper()
		if err := os.Symlink(target, filepath.Join(dir, "..tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	link("..1")
	path := filepath.Join(dir, "policy.yaml")
	if err := os.Symlink("..data/policy.yaml", path); err != nil {
		t.Fatal(err)
	}
	f, _, _ := follow(t, path)
	link("..2")
	eventually(t, "the new rules", func() bool { return may(f, nixstore.SourceStorePath) })
}

func TestBrokenFileKeepsTheOldRules(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		breakIt func(t *testing.T, path string)
		says    string
	}{
		"broken YAML":     {func(t *testing.T, path string) { t.Helper(); write(t, path, "rules: [") }, "no YAML"},
		"an empty file":   {func(t *testing.T, path string) { t.Helper(); write(t, path, "") }, "no map"},
		"a huge file":     {func(t *testing.T, path string) { t.Helper(); write(t, path, strings.Repeat("#", 2<<20)) }, "bytes"},
		"no file":         {remove, "no such file"},
		"a folder":        {func(t *testing.T, path string) { t.Helper(); remove(t, path); mkdir(t, path) }, "no regular file"},
		"a pipe":          {func(t *testing.T, path string) { t.Helper(); remove(t, path); mkfifo(t, path) }, "no regular file"},
		"a dangling link": {func(t *testing.T, path string) { t.Helper(); remove(t, path); symlink(t, path) }, "no such file"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "policy.yaml")
			write(t, path, onlyImages)
			f, reg, log := follow(t, path)
			if f.Problem() != nil || problemMetric(t, reg) != 0 {
				t.Fatalf("a problem before there is one: %v", f.Problem())
			}

			test.breakIt(t, path)
			eventually(t, "a problem", func() bool { return f.Problem() != nil && strings.Contains(f.Problem().Error(), test.says) })
			if !may(f, nixstore.SourceImage) || may(f, nixstore.SourceStorePath) {
				t.Error("the old rules do not hold any more")
			}
			if problemMetric(t, reg) != 1 {
				t.Error("the metric does not tell of the problem")
			}
			time.Sleep(50 * time.Millisecond) // several looks
			if n := strings.Count(log.String(), `"level":"ERROR"`); n == 0 || n > 2 {
				t.Errorf("%d errors in the log, want one for each new problem: %s", n, log.String())
			}

			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			write(t, path, onlyPaths)
			eventually(t, "the mended rules", func() bool { return may(f, nixstore.SourceStorePath) && f.Problem() == nil })
			if problemMetric(t, reg) != 0 {
				t.Error("the metric still tells of a problem")
			}
		})
	}
}

func TestProblemGoesWhenTheOldContentIsBack(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "policy.yaml")
	write(t, path, onlyImages)
	f, _, _ := follow(t, path)
	write(t, path, "broken")
	eventually(t, "a problem", func() bool { return f.Problem() != nil })
	write(t, path, onlyImages)
	eventually(t, "no problem", func() bool { return f.Problem() == nil })
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func mkdir(t *testing.T, path string) {
	t.Helper()
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

func mkfifo(t *testing.T, path string) {
	t.Helper()
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
}

func symlink(t *testing.T, path string) {
	t.Helper()
	if err := os.Symlink("nowhere", path); err != nil {
		t.Fatal(err)
	}
}

func TestOpenRefusesAFileThatIsNoPolicy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "broken"), "rules: 7")
	for name, want := range map[string]error{"missing": os.ErrNotExist, "broken": nixstore.ErrInvalid} {
		f, err := policy.Open(filepath.Join(dir, name))
		if !errors.Is(err, want) || f != nil || !strings.Contains(err.Error(), name) {
			t.Errorf("Open of the %s file: %v, %v", name, f, err)
		}
	}
}

func TestOpenTwiceOnOneRegistry(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "policy.yaml")
	write(t, path, onlyImages)
	cfg := policy.FileConfig{Path: path, Registerer: prometheus.NewRegistry()}
	if _, err := policy.OpenFile(cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := policy.OpenFile(cfg); err == nil {
		t.Error("two files share one metric")
	}
}

func TestCheckWhileTheFileChanges(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "policy.yaml")
	write(t, path, onlyImages)
	f, _, _ := follow(t, path)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 2000 {
				// Whatever the moment, one whole policy decides.
				image, paths := may(f, nixstore.SourceImage), may(f, nixstore.SourceExpr)
				if paths || !image && !may(f, nixstore.SourceStorePath) && !may(f, nixstore.SourceImage) {
					t.Error("neither policy holds")
					return
				}
			}
		})
	}
	for i := range 20 {
		write(t, path, []string{onlyPaths, onlyImages}[i%2])
		time.Sleep(10 * time.Millisecond)
	}
	wg.Wait()
}
