package attributes

import "strings"

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
		d := distance(key, strings.ToLower(k))
		if strings.HasPrefix(strings.ToLower(k), key) && key != "" {
			d = min(d, 1) // "flake" is flakeRef, "package" is packages
		}
		if best == "" || d < least {
			best, least = k, d
		}
	}
	return best
}

// distance is the Levenshtein distance of a and b in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1) // row[j]: from a[:i] to b[:j]
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next := min(row[j]+1, row[j+1]+1, diagonal+cost)
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}
