package closureimage

import (
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Bounds of the cache. An image has one file of at most some 60 kB, and up to 99
// records of layers, most of which it shares with others of its kind.
const (
	imagesKept = 512
	layersKept = 32 << 10
	bytesKept  = 64 << 20 // in each of the two folders
	sweepEvery = 64       // images written between two sweeps; the first is at the first
	// abandonedAfter is the age at which a file that is being written is nobody's.
	abandonedAfter = time.Hour
)

// sweep removes what was used longest ago until the cache is well below its bounds,
// and what writers of earlier lives left.
func (c *cache) sweep(now time.Time) {
	for name, most := range map[string]int{imagesDir: imagesKept, layersDir: layersKept} {
		if err := sweepDir(filepath.Join(c.dir, name), most, bytesKept, now); err != nil {
			c.log.Warn("sweeping the cache of image digests", slog.Any("error", err))
		}
	}
}

// sweepDir keeps a folder below a number of files and bytes. When it is above, a
// quarter goes, so that the next sweeps find nothing to do.
func sweepDir(dir string, files int, bytes int64, now time.Time) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var all []fs.FileInfo
	var total int64
	for _, e := range entries {
		info, err := e.Info() // lstat
		if err != nil {
			continue // it went away
		}
		if strings.HasPrefix(e.Name(), newPrefix) {
			if now.Sub(info.ModTime()) > abandonedAfter {
				_ = os.Remove(filepath.Join(dir, e.Name())) // the next sweep tries again
			}
			continue
		}
		all = append(all, info)
		total += info.Size()
	}
	if len(all) <= files && total <= bytes {
		return nil
	}
	slices.SortFunc(all, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for left := len(all); len(all) > 0 && (left > files*3/4 || total > bytes/4*3); left-- {
		if err := os.RemoveAll(filepath.Join(dir, all[0].Name())); err != nil {
			return err
		}
		total -= all[0].Size()
		all = all[1:]
	}
	return nil
}
