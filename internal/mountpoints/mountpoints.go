// Package mountpoints finds and detaches what is mounted below a folder, for tests
// and tools that clean up after themselves. The product tells its own mounts
// apart in driver/view and never detaches by path.
//
// Each call reads the mount table of this process anew and keeps nothing.
package mountpoints

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// unescape undoes the octal escapes of proc(5), mountinfo.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// Below gives the mount points at and below dir that this process sees, outer
// ones first; one that is mounted over stands there as often as it is mounted.
func Below(dir string) ([]string, error) {
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

// Detach takes every mount at and below dir away, inner ones first. Its error
// joins those of the mounts that stay.
func Detach(dir string) error {
	points, err := Below(dir)
	for _, point := range slices.Backward(points) {
		// EINVAL: it went with the one above
		if e := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); e != nil && !errors.Is(e, unix.EINVAL) {
			err = errors.Join(err, fmt.Errorf("unmounting %s: %w", point, e))
		}
	}
	return err
}
