//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// figures are what was measured, by name. Speed is written down and not judged:
// the machine is shared.
var figures struct {
	sync.Mutex
	lines map[string]string
}

// figure keeps one line. A later one of the same name replaces it.
func figure(name, format string, args ...any) {
	figures.Lock()
	defer figures.Unlock()
	if figures.lines == nil {
		figures.lines = map[string]string{}
	}
	figures.lines[name] = fmt.Sprintf(format, args...)
}

// writeFigures prints the figures and puts them into logs/figures.txt of the
// cluster, where those of other names stay: a run is several processes.
func writeFigures() error {
	figures.Lock()
	defer figures.Unlock()
	if len(figures.lines) == 0 {
		return nil
	}
	path := filepath.Join(w.dir, "logs", "figures.txt")
	data, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	all := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if name, text, found := strings.Cut(strings.TrimSpace(line), ": "); found {
			all[name] = text
		}
	}
	maps.Copy(all, figures.lines)
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&b, "%s: %s\n", name, all[name])
	}
	fmt.Printf("figures, in %s:\n%s", path, b.String())
	return os.WriteFile(path, []byte(b.String()), 0o644)
}

// ratio writes a as a multiple of b.
func ratio(a, b time.Duration) string { return fmt.Sprintf("%.2f", a.Seconds()/b.Seconds()) }

// metric gives one of the agent's metrics.
func metric(t *testing.T, name string) float64 {
	t.Helper()
	for line := range strings.Lines(page(t, "/metrics")) {
		if text, ok := strings.CutPrefix(line, name+" "); ok {
			value, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
			if err != nil {
				t.Fatal(err)
			}
			return value
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}

// page gives one of the agent's pages.
func page(t *testing.T, path string) string {
	t.Helper()
	address, err := w.agent.address(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return pageAt(t, address, path)
}

// pageAt gives one of the pages of the agent at an address.
func pageAt(t *testing.T, address, path string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s%s: %s: %s (%v)", address, path, res.Status, body, err)
	}
	return string(body)
}
