package jail

import (
	"strings"
	"testing"
)

func TestHeadKeepsTheBeginning(t *testing.T) {
	t.Parallel()
	calls := 0
	b := &headBuffer{limit: 5, full: func() { calls++ }}
	for _, p := range []string{"abc", "de", "f", "g"} {
		if n, err := b.Write([]byte(p)); n != len(p) || err != nil {
			t.Fatalf("writing %q gave %d, %v", p, n, err)
		}
	}
	if string(b.data) != "abcde" || calls != 1 {
		t.Errorf("kept %q, and full was called %d times", b.data, calls)
	}
}

func FuzzTailKeepsTheEnd(f *testing.F) {
	f.Add("abc,defgh,,ijklmnop", uint8(4))
	f.Add("", uint8(0))
	f.Fuzz(func(t *testing.T, text string, limit uint8) {
		b := &tailBuffer{limit: int(limit)}
		all := ""
		for part := range strings.SplitSeq(text, ",") {
			if n, err := b.Write([]byte(part)); n != len(part) || err != nil {
				t.Fatalf("writing %q gave %d, %v", part, n, err)
			}
			all += part
		}
		want := all[max(0, len(all)-int(limit)):]
		if got := string(b.bytes()); got != want {
			t.Errorf("kept %q, want %q", got, want)
		}
		if len(b.data) > 2*int(limit) {
			t.Errorf("%d bytes are held for a limit of %d", len(b.data), limit)
		}
	})
}
