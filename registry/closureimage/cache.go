package closureimage

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Folders of the cache.
const (
	imagesDir = "images"
	layersDir = "layers"
)

// newPrefix begins the names of files that are being written.
const newPrefix = ".new-"

// documents are what is kept of an image.
type documents struct {
	manifest []byte
	config   []byte
	sbom     record // of the SBOM, which is generated when it is read
}

// cache keeps digests on disk. Each file checks itself, so that nothing needs to be
// flushed: what a crash spoils is found out and computed again. Failing to keep something is no error.
type cache struct {
	dir    string
	log    *slog.Logger
	writes atomic.Uint64 // images written, for when to sweep
}

func openCache(dir string, log *slog.Logger) (*cache, error) {
	for _, name := range []string{imagesDir, layersDir} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			return nil, fmt.Errorf("making the cache of image digests: %w", err)
		}
	}
	return &cache{dir: dir, log: log}, nil
}

func (c *cache) imagePath(k key) string { return filepath.Join(c.dir, imagesDir, k.String()) }

// layerPath names the record of a layer, as it is pulled or before it is compressed.
func (c *cache) layerPath(k key, plain bool) string {
	name := filepath.Join(c.dir, layersDir, k.String())
	if plain {
		return name + ".plain"
	}
	return name
}

// image reads what is known of an image.
func (c *cache) image(k key) (documents, bool) {
	path := c.imagePath(k)
	data, err := os.ReadFile(path)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			c.log.Warn("dropping the unreadable record of an image", slog.Any("error", err))
			c.dropImage(k)
		}
		return documents{}, false
	}
	doc, ok := parseDocuments(k, data)
	if !ok {
		c.log.Warn("dropping the damaged record of an image", slog.String("file", path))
		c.dropImage(k)
		return doc, false
	}
	c.touch(path)
	return doc, true
}

// putImage keeps an image's documents, and sweeps now and then.
func (c *cache) putImage(k key, doc documents) {
	if err := writeFile(c.imagePath(k), formatDocuments(k, doc)); err != nil {
		c.log.Warn("keeping the record of an image", slog.Any("error", err))
	}
	if c.writes.Add(1)%sweepEvery == 1 {
		c.sweep(time.Now())
	}
}

func (c *cache) dropImage(k key) { c.remove(c.imagePath(k)) }

func (c *cache) dropLayer(k key) {
	c.remove(c.layerPath(k, false))
	c.remove(c.layerPath(k, true))
}

func (c *cache) remove(path string) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.log.Warn("removing a record of digests", slog.Any("error", err))
	}
}

// touch marks a file as used. Its time decides what is swept first, so that failing
// to set it hurts nobody.
func (c *cache) touch(path string) {
	now := unix.NsecToTimespec(time.Now().UnixNano())
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{now, now}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		c.log.Debug("marking a record as used", slog.Any("error", err))
	}
}

// layer reads the digests of a layer.
func (c *cache) layer(k key, compression Compression) (layer, bool) {
	blob, ok := c.record(k, false)
	if !ok || compression == None {
		return layer{blob, blob}, ok
	}
	plain, ok := c.record(k, true)
	return layer{plain, blob}, ok
}

// putLayer keeps the digests of a layer.
func (c *cache) putLayer(k key, compression Compression, l layer) {
	c.putRecord(k, false, l.blob)
	if compression != None {
		c.putRecord(k, true, l.plain)
	}
}

// record reads one record. A record is the target of a symlink that leads nowhere:
// short ones stand in the inode, so that the hundred layers of an image take no blocks of
// 4 KiB, and symlink(2) makes them whole or not at all, also when the power fails.
func (c *cache) record(k key, plain bool) (record, bool) {
	path := c.layerPath(k, plain)
	text, err := os.Readlink(path)
	if err != nil {
		return record{}, false
	}
	r, ok := parseRecord(k, text)
	if !ok {
		c.log.Warn("dropping the damaged record of a layer", slog.String("file", path))
		c.remove(path)
		return r, false
	}
	c.touch(path)
	return r, true
}

func (c *cache) putRecord(k key, plain bool, r record) {
	path := c.layerPath(k, plain)
	err := os.Symlink(formatRecord(k, r), path)
	if errors.Is(err, fs.ErrExist) { // an old one that could not be read
		c.remove(path)
		err = os.Symlink(formatRecord(k, r), path)
	}
	if err != nil {
		c.log.Warn("keeping the record of a layer", slog.Any("error", err))
	}
}

// checkLen is the length of a record's checksum, in characters of base 64.
const checkLen = 4

// formatRecord writes digest.size.checksum, in less than the 60 bytes that ext4 has
// room for in an inode.
func formatRecord(k key, r record) string {
	text := base64.RawURLEncoding.EncodeToString(r.sum[:]) + "." + strconv.FormatInt(r.size, 36) + "."
	return text + recordCheck(k, text)
}

// recordCheck binds a record to its name.
func recordCheck(k key, text string) string {
	sum := sha256.Sum256(append(k[:], text...))
	return base64.RawURLEncoding.EncodeToString(sum[:])[:checkLen]
}

// parseRecord is the inverse of formatRecord, and takes nothing else.
func parseRecord(k key, text string) (record, bool) {
	var r record
	fields := strings.Split(text, ".")
	if len(fields) != 3 {
		return r, false
	}
	sum, err := base64.RawURLEncoding.DecodeString(fields[0])
	if err != nil || len(sum) != len(r.sum) {
		return r, false
	}
	size, err := strconv.ParseInt(fields[1], 36, 64)
	if err != nil || size <= 0 {
		return r, false
	}
	r = record{digest(sum), size}
	return r, formatRecord(k, r) == text
}

// magic begins the file of an image.
const magic = "closured image"

// formatDocuments writes the file of an image: a line with a checksum of the rest,
// a line with lengths and the SBOM's record, manifest, configuration.
func formatDocuments(k key, doc documents) []byte {
	body := fmt.Appendf(nil, "%d %d %s %d\n", len(doc.manifest), len(doc.config), doc.sbom.sum, doc.sbom.size)
	body = append(append(body, doc.manifest...), doc.config...)
	sum := digest(sha256.Sum256(body))
	return append(fmt.Appendf(nil, "%s %d %s %s\n", magic, formatVersion, k, sum), body...)
}

// parseDocuments is the inverse of formatDocuments, and takes nothing else.
func parseDocuments(k key, data []byte) (documents, bool) {
	var doc documents
	_, body, _ := bytes.Cut(data, []byte("\n"))
	line, rest, _ := bytes.Cut(body, []byte("\n"))
	fields := strings.Split(string(line), " ")
	if len(fields) != 4 {
		return doc, false
	}
	sum, ok := parseDigest(fields[2])
	size, err := strconv.ParseInt(fields[3], 10, 64)
	length, lengthErr := strconv.ParseUint(fields[0], 10, 31)
	if !ok || err != nil || lengthErr != nil || length > uint64(len(rest)) {
		return doc, false
	}
	doc = documents{manifest: rest[:length:length], config: rest[length:], sbom: record{sum, size}}
	return doc, bytes.Equal(formatDocuments(k, doc), data)
}

// writeFile makes a file appear whole.
func writeFile(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), newPrefix)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
