package view

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/nixstore"
)

// Limits of mkfs.ext4, which takes some 5 ms.
const (
	mkfsTime      = 30 * time.Second
	mkfsWaitDelay = time.Second
	mkfsOutputMax = 4096
)

// loopAttempts bounds how often another process may take the free loop device first.
const loopAttempts = 64

// loopControl is the number of /dev/loop-control (include/linux/miscdevice.h).
const (
	miscMajor   = 10
	loopControl = 237
)

// makeExt4 makes a sparse file of size bytes with an ext4 in it that needs no
// journal, as it never outlives a crash, and no blocks for root.
func makeExt4(ctx context.Context, file string, size int64) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return failed(err, "making the disk of a private layer")
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return failed(err, "sizing the disk of a private layer")
	}
	mkfs, err := findMkfs()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, mkfsTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, mkfs, "-q", "-F", "-m", "0", "-b", strconv.Itoa(blockBytes),
		"-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard", "--", file)
	cmd.Env = []string{"LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = mkfsWaitDelay
	out := &bounded{max: mkfsOutputMax}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		return mkfsError(ctx, err, out.String())
	}
	return nil
}

func mkfsError(ctx context.Context, err error, output string) error {
	if ctx.Err() != nil {
		return fmt.Errorf("formatting a private layer: %w", ctx.Err())
	}
	if strings.Contains(output, unix.ENOSPC.Error()) || strings.Contains(output, "No space left") {
		return nixstore.Fail(nixstore.ErrNoSpace, "free space on the node", "formatting a private layer: %s", output)
	}
	return fmt.Errorf("formatting a private layer: %w: %s", err, output)
}

// findMkfs looks where e2fsprogs puts it, as an agent's PATH may lack sbin.
func findMkfs() (string, error) {
	for _, name := range []string{"mkfs.ext4", "/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", nixstore.Fail(errors.ErrUnsupported, "install e2fsprogs on the node",
		"writable volumes need mkfs.ext4, which is not there")
}

// bounded keeps the first bytes written to it, and takes the rest.
type bounded struct {
	buf bytes.Buffer
	max int
}

// Write never fails.
func (b *bounded) Write(p []byte) (int, error) {
	b.buf.Write(p[:min(len(p), b.max-b.buf.Len())])
	return len(p), nil
}

// String gives what was kept, on one line.
func (b *bounded) String() string { return strings.Join(strings.Fields(b.buf.String()), " ") }

// mountImage mounts the ext4 in file at a place, through a loop device that frees
// itself with its last user. Device nodes are made in the folder helper, because
// the /dev of a container lacks devices that are younger than the container.
func mountImage(helper, file, at string) error {
	image, err := unix.Open(file, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return failed(err, "opening the disk of a private layer")
	}
	defer closeFD(image)
	node := filepath.Join(helper, "loop")
	device, err := attachLoop(helper, node, image)
	if err != nil {
		return err
	}
	defer closeFD(device) // the mount keeps it from here on
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOATIME
	if err := unix.Mount(node, at, "ext4", flags, "errors=remount-ro,discard"); err != nil {
		return failed(err, "mounting the disk of a private layer")
	}
	return nil
}

// attachLoop gives an open loop device that shows image, with a node for it.
func attachLoop(helper, node string, image int) (int, error) {
	control, err := openNode(filepath.Join(helper, "loop-control"), unix.S_IFCHR, unix.Mkdev(miscMajor, loopControl))
	if err != nil {
		return -1, loopError(err)
	}
	defer closeFD(control)
	for range loopAttempts {
		n, err := unix.IoctlRetInt(control, unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return -1, loopError(err)
		}
		fd, err := configureLoop(n, node, image)
		if err == nil {
			return fd, nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return -1, loopError(err)
		}
	}
	return -1, nixstore.Fail(nixstore.ErrBusy, "try again", "other processes took every loop device first")
}

// configureLoop makes loop device n show image; EBUSY when somebody else has it.
func configureLoop(n int, node string, image int) (int, error) {
	dev, err := loopNumber(n)
	if err != nil {
		return -1, err
	}
	fd, err := openNode(node, unix.S_IFBLK, dev)
	if err != nil {
		return -1, err
	}
	config := unix.LoopConfig{Fd: uint32(image)} //nolint:gosec // a descriptor
	config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
	copy(config.Info.File_name[:len(config.Info.File_name)-1], mountSource)
	if err := unix.IoctlLoopConfigure(fd, &config); err != nil {
		closeFD(fd)
		return -1, err
	}
	return fd, nil
}

// loopNumber reads the device number of loop device n, which depends on the
// module's max_part.
func loopNumber(n int) (uint64, error) {
	text, err := os.ReadFile("/sys/block/loop" + strconv.Itoa(n) + "/dev")
	if err != nil {
		return 0, err
	}
	var major, minor uint32
	if _, err := fmt.Sscanf(string(text), "%d:%d", &major, &minor); err != nil {
		return 0, fmt.Errorf("parsing the number of loop%d: %w", n, err)
	}
	return unix.Mkdev(major, minor), nil
}

// openNode makes a device node afresh and opens it.
func openNode(path string, kind uint32, dev uint64) (int, error) {
	if err := unix.Unlink(path); err != nil && !errors.Is(err, unix.ENOENT) {
		return -1, err
	}
	if err := unix.Mknod(path, kind|0o600, int(dev)); err != nil { //nolint:gosec // 12+20 bits
		return -1, err
	}
	return unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
}

func loopError(err error) error {
	return fmt.Errorf("getting a loop device for a private layer: %w", err)
}
