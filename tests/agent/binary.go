package agent

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

const program = "github.com/closured/closured/cmd/closured"

// Binary gives the path of the program to test: $CLOSURED_BIN, or one that is
// built from the module of the working folder, once for each process, into
// .cache/agent.
func Binary() (string, error) {
	if path := os.Getenv("CLOSURED_BIN"); path != "" {
		return filepath.Abs(path)
	}
	return build()
}

var build = sync.OnceValues(func() (string, error) {
	module, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("finding the module to build closured of: %w", err)
	}
	dir := filepath.Join(strings.TrimSpace(string(module)), ".cache", "agent")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	// Several test processes do this at once: each builds its own and renames it,
	// so that none sees half a program.
	made := filepath.Join(dir, fmt.Sprintf("closured.%d", os.Getpid()))
	cmd := exec.Command("go", "build", "-trimpath", "-o", made, program)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building closured: %w\n%s", err, out)
	}
	path := filepath.Join(dir, "closured")
	return path, os.Rename(made, path)
})
