package closureimage

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"
)

func FuzzParseDocuments(f *testing.F) {
	doc := documents{manifest: []byte(`{"layers":[]}`), config: []byte("{}"), sbom: describe([]byte("sbom"))}
	f.Add(formatDocuments(key{1}, doc))
	f.Add([]byte(magic + " 1\n\n"))
	f.Add([]byte("\n-1 0 sha256: 0\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		doc, ok := parseDocuments(key{1}, data)
		if ok && !bytes.Equal(formatDocuments(key{1}, doc), data) {
			t.Errorf("%q is not what would be written", data)
		}
		if _, other := parseDocuments(key{2}, data); ok && other {
			t.Errorf("%q belongs to two keys", data)
		}
		// The same with a right checksum: what stands behind it is foreign as well.
		_, body, _ := bytes.Cut(data, []byte("\n"))
		sealed := append([]byte(magic+" 1 "+key{1}.String()+" "+describe(body).sum.String()+"\n"), body...)
		if doc, ok := parseDocuments(key{1}, sealed); ok && len(doc.manifest)+len(doc.config) > len(body) {
			t.Errorf("%q gave more than it holds", sealed)
		}
	})
}

func FuzzParseRecord(f *testing.F) {
	f.Add(formatRecord(key{1}, describe([]byte("layer"))))
	f.Add("..")
	f.Add("AAAA.-1.AAAA")
	f.Fuzz(func(t *testing.T, text string) {
		r, ok := parseRecord(key{1}, text)
		if ok && (formatRecord(key{1}, r) != text || r.size <= 0) {
			t.Errorf("%q was read as %v", text, r)
		}
	})
}

func TestDocumentsComeBackAndNothingElseDoes(t *testing.T) {
	t.Parallel()
	doc := documents{manifest: []byte("manifest\n"), config: []byte("\nconfig"), sbom: describe([]byte("sbom"))}
	data := formatDocuments(key{7}, doc)
	got, ok := parseDocuments(key{7}, data)
	if !ok || !bytes.Equal(got.manifest, doc.manifest) || !bytes.Equal(got.config, doc.config) || got.sbom != doc.sbom {
		t.Errorf("came back as %v, %v", got, ok)
	}
	for i := range data {
		bad := bytes.Clone(data)
		bad[i] ^= 1
		if _, ok := parseDocuments(key{7}, bad); ok {
			t.Errorf("a change of byte %d was not noticed", i)
		}
		if _, ok := parseDocuments(key{7}, data[:i]); ok {
			t.Errorf("the loss of the end from byte %d on was not noticed", i)
		}
	}
}

func TestRecordsFitIntoAnInode(t *testing.T) {
	t.Parallel()
	r := record{describe(nil).sum, 2 << 40}
	text := formatRecord(key{}, r)
	if len(text) >= 60 { // EXT4_N_BLOCKS * 4, with a NUL
		t.Errorf("%q has %d bytes", text, len(text))
	}
	if got, ok := parseRecord(key{}, text); !ok || got != r {
		t.Errorf("%q came back as %v", text, got)
	}
	if _, ok := parseRecord(key{1}, text); ok {
		t.Error("a record is taken for another layer's")
	}
}

func TestSweepRemovesWhatWasUsedLongestAgo(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	dir := t.TempDir()
	for i := range 40 {
		makeOld(t, filepath.Join(dir, strconv.Itoa(i)), 100, now.Add(-time.Duration(i)*time.Minute))
	}
	makeOld(t, filepath.Join(dir, newPrefix+"old"), 1, now.Add(-2*time.Hour))
	makeOld(t, filepath.Join(dir, newPrefix+"young"), 1, now.Add(-time.Minute))
	sweepTo := func(files int, bytes int64, want ...string) {
		t.Helper()
		if err := sweepDir(dir, files, bytes, now); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range entries {
			got = append(got, e.Name())
		}
		want = append(want, newPrefix+"young")
		if slices.Sort(want); !slices.Equal(got, want) {
			t.Errorf("left are %q, want %q", got, want)
		}
	}
	sweepTo(40, 1<<20, names(40)...)
	sweepTo(39, 1<<20, names(29)...)
	sweepTo(39, 2800, names(21)...)
}

func names(n int) []string {
	var all []string
	for i := range n {
		all = append(all, strconv.Itoa(i))
	}
	return all
}

func makeOld(t *testing.T, file string, size int, at time.Time) {
	t.Helper()
	if err := os.WriteFile(file, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(file, at, at); err != nil {
		t.Fatal(err)
	}
}
