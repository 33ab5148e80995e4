package beneath

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"
)

// record makes a struct linux_dirent64 as the kernel does: the name ends with a
// zero, and the next record is aligned to eight bytes.
func record(e Entry) string {
	b := make([]byte, (direntName+len(e.Name)+1+7)&^7)
	binary.NativeEndian.PutUint16(b[direntLen:], uint16(len(b)))
	b[direntType] = e.Kind
	copy(b[direntName:], e.Name)
	return string(b)
}

func TestRecordsOfTheKernel(t *testing.T) {
	t.Parallel()
	want := []Entry{{"a", 8}, {"...", 4}, {".hidden", 10}, {strings.Repeat("n", 255), 0}, {"12345", 8}, {"\xff\n", 1}}
	records := record(Entry{".", 4}) + record(Entry{"..", 4})
	for _, e := range want {
		records += record(e)
	}
	if got := appendEntries(nil, records); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := appendEntries(want[:1:1], records); len(got) != 1+len(want) {
		t.Errorf("%d entries after the first, want %d", len(got)-1, len(want))
	}
}

func FuzzRecords(f *testing.F) {
	good := record(Entry{"file", 8}) + record(Entry{".", 4})
	f.Add(good, "name", byte(4))
	f.Add(good[:len(good)-1], "", byte(0))
	f.Add(strings.Repeat("\x00", 64), "..", byte(8))
	f.Add(strings.Repeat("\xff", 64), strings.Repeat("n", 255), byte(10))
	f.Fuzz(func(t *testing.T, records, name string, kind byte) {
		size := 0
		for _, e := range appendEntries(nil, records) {
			size += direntName + len(e.Name)
			if e.Name == "." || e.Name == ".." || strings.Contains(e.Name, "\x00") {
				t.Errorf("an entry is named %q", e.Name)
			}
		}
		if size > len(records) {
			t.Errorf("entries of %d bytes come from %d", size, len(records))
		}
		name, _, _ = strings.Cut(name, "\x00")
		if name = name[:min(len(name), 255)]; name == "." || name == ".." {
			return
		}
		want := Entry{name, kind}
		if got := appendEntries(nil, record(want)+records); len(got) == 0 || got[0] != want {
			t.Errorf("the first of %q is not %q", got, want)
		}
	})
}
