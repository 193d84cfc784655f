// Package nearest finds the word that somebody meant who wrote another.
package nearest

import "strings"

// Word returns the one of words that name was probably meant to be: few
// letters differ, or a prefix such as tls- is missing; "" if there is none.
func Word(name string, words []string) string {
	best, least := "", len(name)/3+2
	for _, w := range words {
		d := distance(name, w)
		if strings.HasSuffix(w, "-"+name) {
			d = min(d, 1)
		}
		if d < least && d < len(w) {
			best, least = w, d
		}
	}
	return best
}

// distance is Levenshtein's: the insertions, deletions and replacements that
// make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
