package attributes

import (
	"fmt"

	"github.com/closured/closured/internal/quantity"
)

// The bounds of sizeLimit, in bytes.
const (
	// MinSizeLimitBytes is the least sizeLimit: less does not hold the folders of a layer.
	MinSizeLimitBytes = 1 << 20
	// MaxSizeLimitBytes is the greatest sizeLimit.
	MaxSizeLimitBytes = quantity.MaxBytes
)

// parseSize reads a sizeLimit in bytes. The text tells the problem, or "".
func parseSize(s string) (int64, string) {
	size, err := quantity.Parse(s)
	if err != nil {
		return 0, err.Error()
	}
	if size < MinSizeLimitBytes {
		return 0, fmt.Sprintf("is less than %d bytes", MinSizeLimitBytes)
	}
	return size, ""
}
