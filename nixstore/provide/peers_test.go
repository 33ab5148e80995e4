package provide_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/pins"
	"github.com/closured/closured/nixstore/provide"
	"github.com/closured/closured/nixstore/storetest"
)

// asked is a store that notes which caches it is to ask.
type asked struct {
	*storetest.Memory
	substituters chan []string
}

func (a asked) Realise(ctx context.Context, outs []nixstore.Output, opts nixstore.RealiseOptions) error {
	a.substituters <- opts.Substituters
	return a.Memory.Realise(ctx, outs, opts)
}

func TestPeersAreAskedForWhatIsMissing(t *testing.T) {
	t.Parallel()
	store := asked{storetest.NewMemory(), make(chan []string, 1)}
	p, err := pins.Open(filepath.Join(t.TempDir(), "closured"))
	if err != nil {
		t.Fatal(err)
	}
	here := store.AddText("here", "x")
	missing := nixstore.MustParseStorePath("/nix/store/1rz4g4znpzjwh1xymhjpm42vipw92pr7-missing")
	calls := make(chan []nixstore.StorePath, 2)
	provider, err := provide.New(provide.Config{
		Store: store, Pins: p,
		Peers: func(_ context.Context, paths []nixstore.StorePath) []string {
			calls <- paths
			return []string{"http://10.0.0.1:5859"}
		},
		Images: func(context.Context, string) (nixstore.Source, error) {
			return nixstore.Source{Kind: nixstore.SourceStorePath, Paths: []nixstore.StorePath{missing}}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(provider.Close)
	holder := nixstore.Holder{Kind: nixstore.HolderVolume, Name: "a"}
	_, err = provider.Provide(t.Context(), nixstore.Request{
		Source: nixstore.Source{Kind: nixstore.SourceStorePath, Paths: []nixstore.StorePath{here}}, Holder: holder,
	})
	if err != nil || len(calls) > 0 {
		t.Errorf("what is here: %v, peers were asked %d times", err, len(calls))
	}
	holder.Name = "b"
	_, err = provider.Provide(t.Context(), nixstore.Request{Source: nixstore.Source{Kind: nixstore.SourceImage, Image: "a/b"}, Holder: holder})
	if !errors.Is(err, nixstore.ErrNotFound) {
		t.Errorf("what nobody has: %v", err)
	}
	if len(calls) != 1 || len(store.substituters) != 1 {
		t.Fatalf("peers were asked %d times, and the store %d times", len(calls), len(store.substituters))
	}
	if paths := <-calls; !slices.Equal(paths, []nixstore.StorePath{missing}) {
		t.Errorf("peers were asked for %v", paths)
	}
	if got := <-store.substituters; !slices.Equal(got, []string{"http://10.0.0.1:5859"}) {
		t.Errorf("the store was told of %q", got)
	}
}
