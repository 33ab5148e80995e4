// Package edit measures how far apart two words are, for messages that guess
// what was meant. It is one pure function; whoever guesses decides what is near.
package edit

// Distance is the Levenshtein distance of a and b in bytes: the fewest bytes to
// insert, remove or change. The work grows with the product of the lengths, so
// bound them where they are foreign.
func Distance(a, b string) int {
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
