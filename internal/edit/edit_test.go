package edit_test

import (
	"testing"

	"github.com/closured/closured/internal/edit"
)

func TestDistance(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"", "jq", 2},
		{"jq", "", 2},
		{"curl", "curl", 0},
		{"kitten", "sitting", 3},
		{"flaw", "lawn", 2},
		{"storepath", "storePath", 1},
	} {
		if got := edit.Distance(tt.a, tt.b); got != tt.want {
			t.Errorf("Distance(%q, %q) = %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}
