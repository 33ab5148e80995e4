package hosts

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// writeSynced makes a new file and has it on the disk before it returns: after a
// power cut a name of an empty file would be nobody's, and stay for ever.
func writeSynced(path string, text []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	// The umask does not count: containerd may run as another user (rootless).
	return errors.Join(err, file.Chmod(0o644), file.Sync(), file.Close())
}

// rename is renameat2(2). Not every file system knows its flags; then it is
// a plain rename.
func rename(from, to string, flags uint) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		err = unix.Rename(from, to)
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
