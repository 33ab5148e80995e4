package statedir

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestDescribeOwnerTakesWhateverTheFileHolds(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ text, want string }{
		"what sign writes":         {"12 node-a\n", `pid 12 on host "node-a"`},
		"a number alone":           {"12", "pid 12"},
		"nothing":                  {"", "pid unknown"},
		"white space":              {" \n", "pid unknown"},
		"no number":                {"bob node-a", "pid unknown"},
		"a number that is no pid":  {"-4 node-a", "pid unknown"},
		"a number beyond all pids": {"99999999999999999999 a", "pid unknown"},
		"more words":               {"7 a b c", `pid 7 on host "a"`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := describeOwner(test.text); got != test.want {
				t.Errorf("describeOwner(%q) = %q, want %q", test.text, got, test.want)
			}
		})
	}
}

func FuzzDescribeOwner(f *testing.F) {
	f.Add("12 node-a\n")
	f.Add("\x00\xff 1")
	f.Fuzz(func(t *testing.T, text string) {
		got := describeOwner(text)
		if !strings.HasPrefix(got, "pid ") || strings.ContainsAny(got, "\n\x00") || !utf8.ValidString(got) {
			t.Errorf("describeOwner(%q) = %q", text, got)
		}
	})
}
