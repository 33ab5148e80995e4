package niximages_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/cache"

	"github.com/closured/closured/api/v1alpha1"
	"github.com/closured/closured/internal/logtest"
	"github.com/closured/closured/internal/niximages"
	"github.com/closured/closured/nixstore"
)

// patient waits longer than any test.
var patient = niximages.Config{Patience: time.Hour}

// hasty does not wait.
var hasty = niximages.Config{Patience: time.Nanosecond}

func TestNewTellsEveryProblem(t *testing.T) {
	t.Parallel()
	_, err := niximages.New(niximages.Config{Patience: -1})
	if err == nil || !strings.Contains(err.Error(), "API") || !strings.Contains(err.Error(), "negative") {
		t.Errorf("a bad configuration: %v", err)
	}
	if _, err := niximages.New(niximages.Config{API: &cache.ListWatch{}}); err != nil {
		t.Error(err)
	}
}

// leadsTo waits until the image stands for a store path; "": it is unknown.
func leadsTo(t *testing.T, i *niximages.Images, image, name string) {
	t.Helper()
	eventually(t, image+" is "+name, func() bool {
		src, err := i.Source(t.Context(), image)
		if name == "" {
			return errors.Is(err, nixstore.ErrNotFound)
		}
		return err == nil && src.Kind == nixstore.SourceStorePath && slices.Equal(src.Paths, []nixstore.StorePath{root(name)})
	})
}

func TestANameFollowsItsObject(t *testing.T) {
	t.Parallel()
	for name, streams := range map[string]bool{"an API server that streams lists": true, "an older one": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			c.streams = streams
			c.put(object("shop", "old", nil, version("v1", image(x86, "old-1", "a", "node-a"))))
			i := c.follow(t, hasty)
			leadsTo(t, i, "shop/old", "old-1")
			c.put(object("shop", "new", nil, version("v1", image(x86, "new-1", "b", "node-a"))))
			leadsTo(t, i, "shop/new", "new-1")
			c.put(object("shop", "old", nil, version("v2", image(x86, "old-2", "c", "node-b")), version("v1", image(x86, "old-1", "a", "node-a"))))
			leadsTo(t, i, "shop/old", "old-2")
			if nodes := i.Nodes(root("old-1")); !slices.Equal(nodes, []string{"node-a"}) || i.Count() != 2 {
				t.Errorf("%d objects, and the earlier version is on %v", i.Count(), nodes)
			}
			c.remove("shop/old")
			leadsTo(t, i, "shop/old", "")
			leadsTo(t, i, "other/new", "") // of another namespace
		})
	}
}

func TestAPodThatComesBeforeItsImage(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.put(object("shop", "redis", condition(v1alpha1.ConditionBuilding, v1alpha1.ReasonRealising, "on its way")))
	i := c.follow(t, patient)
	got := make(chan string, 2)
	go func() {
		src, err := i.Source(t.Context(), "shop/redis")
		if err != nil {
			got <- err.Error()
			return
		}
		got <- src.Paths[0].Name()
	}()
	go func() {
		v, err := i.Version(t.Context(), "shop", "redis", "latest")
		if err != nil {
			got <- err.Error()
			return
		}
		got <- v.Source.Paths[0].Name()
	}()
	eventually(t, "the object is known", func() bool { return i.Count() == 1 })
	c.put(object("shop", "redis", nil, version("latest", image(x86, "redis-7", "a", ""))))
	for range 2 {
		if answer := <-got; answer != "redis-7" {
			t.Errorf("the answer is %s", answer)
		}
	}
}

func TestWhoStopsAskingIsLetGo(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.put(object("shop", "redis", nil))
	i := c.follow(t, patient)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := i.Source(ctx, "shop/redis")
		done <- err
	}()
	eventually(t, "the object is known", func() bool { return i.Count() == 1 })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("the answer is %v", err)
	}
}

func TestErrorsSayWhatIsWaitedFor(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	long := strings.Repeat("the builder says much\n", 400)
	for name, change := range map[string]func(*v1alpha1.NixImage){
		"unseen":   nil,
		"seen":     func(n *v1alpha1.NixImage) { n.Status.ObservedGeneration = 1 },
		"building": condition(v1alpha1.ConditionBuilding, v1alpha1.ReasonScheduling, "x86_64-linux: no node yet"),
		"stalled":  condition(v1alpha1.ConditionStalled, v1alpha1.ReasonBuildFailed, long),
		"arm":      func(n *v1alpha1.NixImage) { n.Spec.Systems = []v1alpha1.System{arm} },
		"wicked":   func(n *v1alpha1.NixImage) { n.Status.Images = []v1alpha1.SystemImage{{System: x86, StorePath: "/etc"}} },
	} {
		c.put(object("shop", name, change))
	}
	i := c.follow(t, hasty)
	eventually(t, "all are known", func() bool { return i.Count() == 6 })
	for name, want := range map[string]struct {
		kind error
		text string
	}{
		"missing":  {nixstore.ErrNotFound, "there is no NixImage missing in the namespace shop; next: create it"},
		"unseen":   {nixstore.ErrUnavailable, "the controller has not seen it yet"},
		"seen":     {nixstore.ErrUnavailable, "it is not built yet"},
		"building": {nixstore.ErrUnavailable, "Scheduling: x86_64-linux: no node yet; next: kubectl describe niximage -n shop building"},
		"stalled":  {nixstore.ErrUnavailable, "BuildFailed: the builder says much the builder"},
		"arm":      {nixstore.ErrInvalid, "has nothing for x86_64-linux"},
		"wicked":   {nixstore.ErrUnavailable, "is not ready"},
	} {
		_, err := i.Source(t.Context(), "shop/"+name)
		_, pull := i.Version(t.Context(), "shop", name, "latest")
		for _, err := range []error{err, pull} {
			if !errors.Is(err, want.kind) || !strings.Contains(err.Error(), want.text) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: %v, want %v: %s", name, err, want.kind, want.text)
				continue
			}
			if at := strings.Index(err.Error(), "; next: "); at < 0 || at > 170 {
				t.Errorf("%s: the next step stands at %d of %q", name, at, err)
			}
		}
	}
}

func TestWhatAVolumeWaitsFor(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	building := condition(v1alpha1.ConditionBuilding, v1alpha1.ReasonRealising, "x86_64-linux: node-a realises it")
	c.put(object("shop", "building", building))
	c.put(object("shop", "again", building, version("v1", image(x86, "r-1", "1", "")))) // the earlier version is served
	c.put(object("shop", "stalled", condition(v1alpha1.ConditionStalled, v1alpha1.ReasonBuildFailed, "no")))
	c.put(object("shop", "elsewhere", func(n *v1alpha1.NixImage) { n.Spec.Systems = []v1alpha1.System{arm} }))
	i := c.follow(t, hasty)
	eventually(t, "all are known", func() bool { return i.Count() == 4 })
	if why, waits := i.Waiting("shop/building"); !waits || why != "Realising: x86_64-linux: node-a realises it" {
		t.Errorf("it waits: %t, for %q", waits, why)
	}
	for _, name := range []string{"shop/again", "shop/stalled", "shop/elsewhere", "shop/missing", "other/building"} {
		if why, waits := i.Waiting(name); waits {
			t.Errorf("%s waits for %q", name, why)
		}
	}
}

func TestVersionsByTagAndDigest(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	both := version("v3", image(x86, "r-3", "3", ""), image(arm, "r-3-arm", "3a", ""))
	c.put(object("shop", "redis", func(n *v1alpha1.NixImage) { n.Spec.Tag = "v4" },
		both, version("v2", image(arm, "r-2-arm", "2a", "")), version("v1", image(x86, "r-1b", "1b", "")), version("v1", image(x86, "r-1", "1", ""))))
	i := c.follow(t, hasty)
	eventually(t, "it is known", func() bool { return i.Count() == 1 })
	for reference, want := range map[string]struct {
		root, tag string
		kind      error
		text      string
	}{
		"v3":         {root: "r-3", tag: "v3"},
		both.Digest:  {root: "r-3", tag: "v3"},
		digest("3"):  {root: "r-3", tag: "v3"},
		"v1":         {root: "r-1b", tag: "v1"},
		digest("1"):  {root: "r-1", tag: "v1"},
		digest("3a"): {kind: nixstore.ErrNotFound, text: "not for x86_64-linux"},
		digest("2a"): {kind: nixstore.ErrNotFound, text: "not for x86_64-linux"},
		digest("ff"): {kind: nixstore.ErrNotFound, text: "has no version"},
		"v2":         {kind: nixstore.ErrUnavailable, text: "not ready"},
		"v4":         {kind: nixstore.ErrUnavailable, text: "not ready"},
		"latest":     {kind: nixstore.ErrNotFound, text: `no version "latest"`},
	} {
		got, err := i.Version(t.Context(), "shop", "redis", reference)
		if want.kind != nil {
			if !errors.Is(err, want.kind) || !strings.Contains(err.Error(), want.text) {
				t.Errorf("%s: %v, want %s", reference, err, want.text)
			}
			continue
		}
		if err != nil || got.Source.Paths[0] != root(want.root) || got.Settings.User != want.tag {
			t.Errorf("%s: %+v, %v, want %s", reference, got, err, want.root)
		}
	}
	tags, err := i.Tags(t.Context(), "shop", "redis")
	if err != nil || !slices.Equal(tags, []string{"v1", "v2", "v3"}) {
		t.Errorf("tags %v, %v", tags, err)
	}
	if _, err := i.Tags(t.Context(), "shop", "curl"); !errors.Is(err, nixstore.ErrNotFound) {
		t.Errorf("tags of nothing: %v", err)
	}
	versions, err := i.Versions(t.Context(), "shop", "redis")
	var roots []string
	for _, v := range versions {
		roots = append(roots, v.Source.Paths[0].Name()+" "+v.Settings.User+" "+v.Digest)
	}
	if want := []string{"r-3 v3 " + digest("3"), "r-1b v1 " + digest("1b"), "r-1 v1 " + digest("1")}; err != nil || !slices.Equal(roots, want) {
		t.Errorf("versions %q, %v, want %q", roots, err, want)
	}
	if len(versions) == 0 || len(versions[0].Index) == 0 {
		t.Errorf("the version of two systems has no index: %+v", versions)
	}
	if _, err := i.Versions(t.Context(), "shop", "curl"); !errors.Is(err, nixstore.ErrNotFound) {
		t.Errorf("versions of nothing: %v", err)
	}
}

func TestWhatWasSeenHoldsWhileTheAPIServerIsAway(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.put(object("shop", "redis", nil, version("v1", image(x86, "redis-1", "1", ""))))
	log := &logtest.Buffer{}
	i := c.follow(t, niximages.Config{Patience: time.Nanosecond, Log: log.Logger(slog.LevelInfo)})
	leadsTo(t, i, "shop/redis", "redis-1")
	before := c.listed()
	c.setAway(true)
	c.CloseClientConnections()
	eventually(t, "the loss is told", func() bool { return strings.Contains(log.String(), "cannot be followed") })
	leadsTo(t, i, "shop/redis", "redis-1")
	if _, err := i.Version(t.Context(), "shop", "redis", digest("1")); err != nil {
		t.Error(err)
	}
	c.setAway(false)
	c.put(object("shop", "redis", nil, version("v2", image(x86, "redis-2", "2", ""))))
	leadsTo(t, i, "shop/redis", "redis-2")
	t.Logf("%d lists before, %d after", before, c.listed())
}

func TestWithoutTheKindOrTheRight(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]string{
		http.StatusNotFound: "does not know the kind; next: install it with the component deploy/components/niximage", http.StatusForbidden: "the agent may not; next: apply the component",
		http.StatusInternalServerError: "does not answer",
	} {
		c := newCluster(t)
		c.refuse(status)
		log := &logtest.Buffer{}
		i := c.follow(t, niximages.Config{Patience: time.Nanosecond, Log: log.Logger(slog.LevelInfo)})
		eventually(t, "it asked again", func() bool { return c.listed() > 6 })
		if _, err := i.Source(t.Context(), "shop/redis"); !errors.Is(err, nixstore.ErrUnavailable) || !strings.Contains(err.Error(), want) {
			t.Errorf("status %d: %v", status, err)
		}
		if n := strings.Count(log.String(), "cannot be followed"); n != 1 {
			t.Errorf("status %d was told %d times", status, n)
		}
		c.put(object("shop", "redis", nil, version("v1", image(x86, "redis-1", "1", ""))))
		c.refuse(0)
		leadsTo(t, i, "shop/redis", "redis-1")
	}
}

func TestBeforeTheFirstAnswer(t *testing.T) {
	t.Parallel()
	i, err := niximages.New(niximages.Config{API: &cache.ListWatch{}, Patience: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Source(t.Context(), "shop/redis"); !errors.Is(err, nixstore.ErrUnavailable) || !strings.Contains(err.Error(), "has not answered") {
		t.Errorf("before Run: %v", err)
	}
}

func TestFewPullsWait(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.put(object("shop", "redis", nil))
	i := c.follow(t, patient)
	eventually(t, "it is known", func() bool { return i.Count() == 1 })
	const pulls, waiting = 20, 4
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	errs := make(chan error, pulls)
	for range pulls {
		go func() {
			_, err := i.Version(ctx, "shop", "redis", "latest")
			errs <- err
		}()
	}
	for range pulls - waiting {
		if err := <-errs; !errors.Is(err, nixstore.ErrUnavailable) {
			t.Errorf("a pull too many: %v", err)
		}
	}
	cancel()
	for range waiting {
		if err := <-errs; !errors.Is(err, context.Canceled) && !errors.Is(err, nixstore.ErrUnavailable) {
			t.Errorf("a pull that waited: %v", err)
		}
	}
}
