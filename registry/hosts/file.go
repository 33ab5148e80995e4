package hosts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/internal/logkey"
	"github.com/closured/closured/nixstore"
)

const (
	// defaultEvery is how often Run looks at the file. k3s up to 1.30 empties the whole
	// folder whenever it starts (k3s-io/k3s#10787), which restarts no pod.
	defaultEvery = 30 * time.Second
	// temporaryName is what a new file is called until it is whole: one name, so that
	// leftovers do not pile up. containerd reads only hosts.toml and *.crt, *.cert, *.key.
	temporaryName = ".hosts.toml.closured-new"
	// fileMax bounds what is read of a file that may be anybody's, in bytes.
	fileMax = 64 << 10
)

// Config says which file.
type Config struct {
	// CertsDir is the folder that containerd's config_path names, an absolute path.
	CertsDir string
	// Host is the host of image names, see CheckHost.
	Host string
	// Address is where the registry listens, see CheckAddress.
	Address string
	// Every is how often Run looks; 0 is 30 s.
	Every time.Duration
	// Log is told what Run does; nil discards.
	Log *slog.Logger
}

// File is one hosts.toml.
type File struct {
	folder string // <certs-dir>/<host>
	text   []byte
	every  time.Duration
	log    *slog.Logger
}

// New makes nothing on disk. It returns every problem of cfg, each ErrInvalid.
func New(cfg Config) (*File, error) {
	problems := []error{CheckHost(cfg.Host), CheckAddress(cfg.Address)}
	if !filepath.IsAbs(cfg.CertsDir) || filepath.Clean(cfg.CertsDir) != cfg.CertsDir || cfg.CertsDir == "/" {
		problems = append(problems, nixstore.Fail(nixstore.ErrInvalid, "give --containerd-certs-dir an absolute path without .. and double slashes",
			"%s cannot be containerd's folder of registries", nixstore.Quote(cfg.CertsDir)))
	}
	if cfg.Every < 0 {
		problems = append(problems, nixstore.Fail(nixstore.ErrInvalid, "", "Every is negative: %s", cfg.Every))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	f := &File{folder: filepath.Join(cfg.CertsDir, cfg.Host), text: Containerd(cfg.Address), every: cfg.Every, log: cfg.Log}
	if f.every == 0 {
		f.every = defaultEvery
	}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	return f, nil
}

// Path gives the path of the file.
func (f *File) Path() string { return filepath.Join(f.folder, FileName) }

// Put brings the file to what it has to be, with the folder of the host when that
// is missing, and tells whether it had to: a file that is right already is not
// touched. ErrConflict: there is a file, or a link, that is not ours.
func (f *File) Put() (bool, error) {
	if err := f.makeFolder(); err != nil {
		return false, err
	}
	if err := f.sweep(); err != nil {
		return false, err
	}
	state, err := f.look()
	switch {
	case err != nil:
		return false, err
	case state == right:
		return false, nil
	case state == foreign:
		return false, nixstore.Fail(nixstore.ErrConflict, "move it away, or choose another --registry-host",
			"%s is not closured's: it does not begin with %q", f.Path(), Marker)
	}
	return true, f.write(state)
}

// makeFolder makes the folder of the host and those above it.
func (f *File) makeFolder() error {
	err := os.MkdirAll(f.folder, 0o755) // only containerd needs it, but its own folders are 0755, too
	if err == nil {
		return nil
	}
	certs := filepath.Dir(f.folder)
	var info unix.Stat_t
	// A folder without links was removed, but is still mounted here: nothing can be made in it.
	if errors.Is(err, fs.ErrNotExist) && unix.Stat(certs, &info) == nil && info.Nlink == 0 {
		return nixstore.Fail(nixstore.ErrUnavailable, "delete the agent's pod, so that its next one sees the new folder",
			"%s was removed and made anew outside of the agent's container", certs)
	}
	return fmt.Errorf("making the folder of %s: %w", f.Path(), err)
}

// Remove takes the file away when it is ours, and then the folder of the host when
// it is empty, and tells whether there was such a file. What is somebody else's
// stays, and is no error.
func (f *File) Remove() (bool, error) {
	state, err := f.look()
	if err != nil {
		return false, err
	}
	ours := state == right || state == stale
	if ours {
		if err := os.Remove(f.Path()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, fmt.Errorf("removing what tells containerd of the registry: %w", err)
		}
	}
	if err := f.sweep(); err != nil {
		return ours, err
	}
	// rmdir(2) leaves alone what is not empty.
	err = unix.Rmdir(f.folder)
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENOTDIR) {
		return ours, fmt.Errorf("removing the folder %s: %w", f.folder, err)
	}
	return ours, nil
}

// Run keeps the file there until ctx ends, and leaves it there then (see the
// package's comment). A file that cannot be written ends nothing, since volumes do
// not need it: it is logged once for each reason, and tried again.
func (f *File) Run(ctx context.Context) error {
	ticker := time.NewTicker(f.every)
	defer ticker.Stop()
	said := ""
	for {
		wrote, err := f.Put()
		switch {
		case err != nil && err.Error() != said:
			f.log.Error("containerd cannot be told of the registry, trying again",
				slog.String(logkey.Path, f.Path()), slog.String(logkey.Error, err.Error()))
		case wrote:
			f.log.Info("containerd is told of the registry", slog.String(logkey.Path, f.Path()))
		}
		if said = ""; err != nil {
			said = err.Error()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// state is what there is at the file's path.
type state int

const (
	missing state = iota
	right         // ours, and as it has to be
	stale         // ours, of another version or address
	foreign       // not ours
)

// look reads the file without following a link at its end.
func (f *File) look() (state, error) {
	// O_NONBLOCK: a FIFO must not hold us.
	file, err := os.OpenFile(f.Path(), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return missing, nil
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENXIO): // a link; a socket
		return foreign, nil
	case err != nil:
		return missing, fmt.Errorf("reading what containerd knows of the registry: %w", err)
	}
	text, err := readRegular(file)
	if err := errors.Join(err, file.Close()); err != nil {
		return missing, fmt.Errorf("reading %s: %w", f.Path(), err)
	}
	first, _, _ := bytes.Cut(text, []byte("\n"))
	switch {
	case bytes.Equal(text, f.text):
		return right, nil
	case string(bytes.TrimRight(first, "\r")) == Marker:
		return stale, nil
	}
	return foreign, nil
}

// readRegular gives the beginning of a file, and nothing of what is no file.
func readRegular(file *os.File) ([]byte, error) {
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(file, fileMax))
}

// write makes the file under another name and renames it. A file that somebody
// made since look is left alone.
func (f *File) write(before state) error {
	temporary := filepath.Join(f.folder, temporaryName)
	err := writeSynced(temporary, f.text)
	if err == nil {
		flags := uint(0)
		if before == missing {
			flags = unix.RENAME_NOREPLACE
		}
		err = rename(temporary, f.Path(), flags)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("telling containerd of the registry in %s: %w", f.Path(), err), f.sweep())
	}
	if err := syncFolder(f.folder); err != nil {
		return fmt.Errorf("telling containerd of the registry in %s: %w", f.Path(), err)
	}
	return nil
}

// sweep removes what a killed agent left over.
func (f *File) sweep() error {
	err := os.Remove(filepath.Join(f.folder, temporaryName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
		return fmt.Errorf("removing a file that was left over: %w", err)
	}
	return nil
}
