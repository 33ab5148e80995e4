package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/closured/closured/internal/mountpoints"
)

// Resident gives the process's resident memory in bytes (VmRSS of proc(5)).
func (a *Agent) Resident() (int64, error) {
	if !a.Running() {
		return 0, errors.New("the agent does not run")
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.PID()))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(data) {
		rest, ok := strings.CutPrefix(string(line), "VmRSS:")
		if !ok {
			continue
		}
		kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		return kib << 10, err
	}
	return 0, errors.New("no VmRSS in the status of the agent")
}

// Pins gives the names of the volumes' pins, sorted.
func (a *Agent) Pins() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(a.StateDir(), "nix/var/nix/gcroots/closured/volumes"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// Volumes gives the mount points below kubelet's folder: one for each volume.
func (a *Agent) Volumes() ([]string, error) { return MountsBelow(a.KubeletDir()) }

// MountsBelow gives the mount points at and below dir that this process sees,
// outer ones first, a place that is mounted on twice twice.
func MountsBelow(dir string) ([]string, error) {
	return mountpoints.Below(dir)
}
