package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
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
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var points []string
	for line := range bytes.Lines(data) {
		fields := strings.Fields(string(line))
		if len(fields) < 5 { // proc(5): the fifth field is the mount point
			continue
		}
		if point := unescape.Replace(fields[4]); point == dir || strings.HasPrefix(point, strings.TrimSuffix(dir, "/")+"/") {
			points = append(points, point)
		}
	}
	return points, nil
}

// unescape undoes the octal escapes of proc(5), mountinfo.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// unmountBelow detaches every mount below dir, inner ones first.
func unmountBelow(dir string) error {
	points, err := MountsBelow(dir)
	for _, point := range slices.Backward(points) {
		// EINVAL: it went with the one above
		if e := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); e != nil && !errors.Is(e, unix.EINVAL) {
			err = errors.Join(err, fmt.Errorf("unmounting %s: %w", point, e))
		}
	}
	return err
}
