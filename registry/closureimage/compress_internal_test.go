package closureimage

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"
)

// samples are bytes of several kinds: what one leaves in a compressor's tables could
// match in the next.
func samples() [][]byte {
	rng := rand.New(rand.NewPCG(5, 6))
	words := make([]byte, 3<<20)
	for i := range words {
		words[i] = "abcdefgh"[rng.IntN(1+i%8)]
	}
	noise := make([]byte, 1<<20)
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	return [][]byte{words, noise, words[:1000], nil, words[7 : 2<<20], make([]byte, 1<<20), noise[100:90_000]}
}

func TestUsedCompressorsGiveTheSameBytesAsNewOnes(t *testing.T) {
	t.Parallel()
	for _, kind := range []Compression{Gzip, Zstd} {
		used := compressors{kind: kind}
		one, err := used.get()
		if err != nil {
			t.Fatal(err)
		}
		for _, first := range samples()[:2] {
			for n, data := range samples() {
				used.pool.Put(one)
				abandoned, err := used.compress(bytesSource(first))
				if err != nil {
					t.Fatal(err)
				}
				_, _ = abandoned.Read(make([]byte, 10)) // left in the middle
				_ = abandoned.Close()
				got := packed(t, &used, data)
				if want := packed(t, &compressors{kind: kind}, data); !bytes.Equal(got, want) {
					t.Errorf("%s of sample %d depends on what was compressed before", kind, n)
				}
			}
		}
	}
}

func packed(t *testing.T, c *compressors, data []byte) []byte {
	t.Helper()
	r, err := c.compress(bytesSource(data))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
