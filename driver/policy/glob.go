package policy

import "strings"

// glob tells whether all of s matches pattern, in which * stands for any run of
// characters but a slash, a colon and an at sign. Nothing else is special. It
// takes time proportional to len(pattern)×len(s) at worst.
func glob(pattern, s string) bool {
	// star and mark are where to go back to: the place after the last *, and how
	// much of s that * has taken.
	p, i, star, mark := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p+1, i
			p++
		case p < len(pattern) && pattern[p] == s[i]:
			p++
			i++
		case star >= 0 && strings.IndexByte("/:@", s[mark]) < 0:
			mark++
			p, i = star, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
