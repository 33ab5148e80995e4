package attributes

import (
	"strings"

	"github.com/closured/closured/internal/edit"
)

// maxCompared bounds how much of a foreign key is compared: all known keys are
// shorter, and the work grows with the product of the lengths.
const maxCompared = 32

// nearest gives the known key that is closest to key: the fewest letters to
// insert, remove or change, whatever their case; the first of equals.
func nearest(key string, known []string) string {
	if len(key) > maxCompared {
		key = key[:maxCompared]
	}
	key = strings.ToLower(key)
	best, least := "", 0
	for _, k := range known {
		d := edit.Distance(key, strings.ToLower(k))
		if strings.HasPrefix(strings.ToLower(k), key) && key != "" {
			d = min(d, 1) // "flake" is flakeRef, "package" is packages
		}
		if best == "" || d < least {
			best, least = k, d
		}
	}
	return best
}
