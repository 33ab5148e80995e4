package niximages_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/closured/closured/api/v1alpha1"
	"github.com/closured/closured/internal/logtest"
	"github.com/closured/closured/internal/niximages"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/pins"
)

// keep has node-a keep what it built, until stop is called or the test ends.
func keep(t *testing.T, i *niximages.Images, p niximages.Pins) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- i.Keep(ctx, "node-a", p) }()
	ended := false
	stop = func() {
		cancel()
		if !ended {
			ended = true
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(stop)
	return stop
}

func openPins(t *testing.T) *pins.Pins {
	t.Helper()
	p, err := pins.Open(filepath.Join(t.TempDir(), "pins"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// kept gives the names of what is pinned, sorted.
func kept(p *pins.Pins) []string {
	names := []string{}
	for _, pin := range p.List(nixstore.HolderBuilt) {
		names = append(names, pin.Root.Name())
	}
	slices.Sort(names)
	return names
}

// keeps waits until exactly these are pinned.
func keeps(t *testing.T, p *pins.Pins, want ...string) {
	t.Helper()
	eventually(t, "pinned is "+strings.Join(want, " "), func() bool { return cmp.Equal(kept(p), append([]string{}, want...)) })
}

// built is an image with a hash of its own.
func built(system v1alpha1.System, hash, name, node string) v1alpha1.SystemImage {
	i := image(system, name, "a", node)
	i.StorePath = v1alpha1.StorePath(strings.Replace(string(i.StorePath), "1rz4", hash, 1))
	return i
}

func TestANodeKeepsWhatItBuilt(t *testing.T) {
	t.Parallel()
	c, p := newCluster(t), openPins(t)
	c.put(object("shop", "redis", nil,
		version("v2", built(x86, "2222", "redis-2", "node-a"), built(arm, "2333", "redis-2-arm", "node-a")),
		version("v1", built(x86, "1111", "redis-1", "node-a"))))
	c.put(object("shop", "same", nil, version("v1", built(x86, "2222", "redis-2", "node-a"))))
	c.put(object("shop", "other", nil, version("v1", built(x86, "3333", "other", "node-b"))))
	c.put(object("shop", "half", func(n *v1alpha1.NixImage) { // the other system is still being built
		n.Status.Resolved = []v1alpha1.Resolution{{SystemImage: built(x86, "4444", "half", "node-a")}}
	}))
	i := c.follow(t, hasty)
	stop := keep(t, i, p)
	keeps(t, p, "half", "redis-1", "redis-2")
	c.put(object("shop", "redis", nil, version("v3", built(x86, "5555", "redis-3", "node-a")), version("v2", built(x86, "2222", "redis-2", "node-b"))))
	keeps(t, p, "half", "redis-2", "redis-3")
	c.remove("shop/same")
	c.remove("shop/half")
	keeps(t, p, "redis-3")
	stop()
	c.remove("shop/redis")
	eventually(t, "it is gone", func() bool { return i.Count() == 1 })
	keeps(t, p, "redis-3") // a stopped agent keeps
}

func TestAPinStaysUntilAllObjectsWereSeen(t *testing.T) {
	t.Parallel()
	c, p := newCluster(t), openPins(t)
	old := nixstore.Holder{Kind: nixstore.HolderBuilt, Name: root("old").Hash()}
	if err := p.Put(old, root("old")); err != nil {
		t.Fatal(err)
	}
	c.refuse(500)
	i := c.follow(t, hasty)
	keep(t, i, p)
	eventually(t, "it asked again", func() bool { return c.listed() > 4 })
	keeps(t, p, "old")
	c.refuse(0)
	keeps(t, p)
}

// full takes no pin for a while.
type full struct {
	*pins.Pins

	refuses atomic.Bool
}

func (f *full) Put(h nixstore.Holder, root nixstore.StorePath) error {
	if f.refuses.Load() {
		return nixstore.Fail(nixstore.ErrNoSpace, "free space", "no space left")
	}
	return f.Pins.Put(h, root)
}

func TestAPinThatCannotBeMadeIsToldOnceAndMadeLater(t *testing.T) {
	t.Parallel()
	c, p, log := newCluster(t), &full{Pins: openPins(t)}, &logtest.Buffer{}
	p.refuses.Store(true)
	c.put(object("shop", "a", nil, version("v1", built(x86, "1111", "a", "node-a"))))
	i := c.follow(t, niximages.Config{Patience: 1, Log: log.Logger(slog.LevelInfo)})
	keep(t, i, p)
	eventually(t, "it is told", func() bool { return strings.Contains(log.String(), "no space left") })
	c.put(object("shop", "b", nil)) // any change has it tried again
	eventually(t, "the change is seen", func() bool { return i.Count() == 2 })
	p.refuses.Store(false)
	c.put(object("shop", "c", nil))
	keeps(t, p.Pins, "a")
	if n := strings.Count(log.String(), "no space left"); n != 1 {
		t.Errorf("it was told %d times", n)
	}
}

func TestTheOriginOfAnImageIsItsSpec(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	versions := []v1alpha1.Version{version("v2", image(x86, "new", "2", "")), version("v1", image(x86, "old", "1", ""))}
	for name, spec := range map[string]v1alpha1.NixImageSpec{
		"packages": {Contents: []v1alpha1.PackageName{"curl", "jq"}},
		"flake":    {FlakeRef: "github:a/b#c"},
		"expr":     {Expression: "x"},
		"paths":    {StorePaths: map[string]v1alpha1.StorePath{"x86_64-linux": v1alpha1.StorePath(root("new").String())}},
	} {
		c.put(object("shop", name, func(n *v1alpha1.NixImage) { n.Spec = spec }, versions...))
	}
	i := c.follow(t, hasty)
	for name, want := range map[string]*nixstore.Origin{
		"packages": {Source: nixstore.Source{Kind: nixstore.SourcePackages, Packages: []string{"curl", "jq"}}},
		"flake":    {Source: nixstore.Source{Kind: nixstore.SourceFlake, Flake: "github:a/b#c"}},
		"expr":     {Source: nixstore.Source{Kind: nixstore.SourceExpr, Expr: "x"}},
		"paths":    nil,
	} {
		leadsTo(t, i, "shop/"+name, "new")
		src, err := i.Source(t.Context(), "shop/"+name)
		now, errNow := i.Version(t.Context(), "shop", name, "v2")
		before, errBefore := i.Version(t.Context(), "shop", name, "v1")
		if err := errors.Join(err, errNow, errBefore); err != nil {
			t.Error(err)
		}
		for _, got := range []*nixstore.Origin{src.Origin, now.Source.Origin} {
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(nixstore.StorePath{})); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		}
		if before.Source.Origin != nil {
			t.Errorf("%s: an earlier version is made of %+v", name, before.Source.Origin)
		}
	}
}

func TestWhatIsServedMayBeOfAnEarlierSpec(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	for name, reason := range map[string]string{"building": v1alpha1.ReasonRetrying, "relabelled": v1alpha1.ReasonFinished} {
		c.put(object("shop", name, func(n *v1alpha1.NixImage) {
			n.Generation, n.Spec.Contents = 2, []v1alpha1.PackageName{"curl"}
			condition(v1alpha1.ConditionBuilding, reason, "as it is")(n)
		}, version("v1", image(x86, "old", "1", ""))))
	}
	i := c.follow(t, hasty)
	for name, known := range map[string]bool{"building": false, "relabelled": true} {
		leadsTo(t, i, "shop/"+name, "old")
		if src, err := i.Source(t.Context(), "shop/"+name); err != nil || (src.Origin != nil) != known {
			t.Errorf("%s: it was made of %+v, %v", name, src.Origin, err)
		}
	}
}

func TestNothingIsKeptWhenTheKindIsGone(t *testing.T) {
	t.Parallel()
	c, p := newCluster(t), openPins(t)
	old := nixstore.Holder{Kind: nixstore.HolderBuilt, Name: root("old").Hash()}
	if err := p.Put(old, root("old")); err != nil {
		t.Fatal(err)
	}
	c.refuse(403) // the objects may well be there
	i := c.follow(t, hasty)
	keep(t, i, p)
	asked := c.listed()
	eventually(t, "it asked again", func() bool { return c.listed() > asked+6 })
	keeps(t, p, "old")
	c.refuse(404)
	keeps(t, p)
}
