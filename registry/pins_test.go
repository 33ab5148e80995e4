package registry_test

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/storetest"
	"github.com/closured/closured/registry"
)

// run runs the registry's sweeps until the test ends or stop is called.
func (r *rig) run(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.registry.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("running: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func (r *rig) collect(t *testing.T) {
	t.Helper()
	if err := r.store.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// imagePins gives the pins of images.
func (r *rig) imagePins() int { return len(r.pins.List(nixstore.HolderImage)) }

// age makes the pins of root look used long ago.
func (r *rig) age(t *testing.T, root nixstore.StorePath, by time.Duration) {
	t.Helper()
	for _, pin := range r.pins.List(nixstore.HolderImage) {
		if pin.Root != root {
			continue
		}
		if err := r.pins.Touch(pin.Holder, time.Now().Add(-by)); err != nil {
			t.Fatal(err)
		}
	}
}

// sweep restarts, and lets a sweep run that must leave so many pins.
func (r *rig) sweep(t *testing.T, cfg registry.Config, left int) {
	t.Helper()
	r.restart(t, cfg)
	stop := r.run(t)
	eventually(t, "the sweep came", func() bool { return r.imagePins() <= left })
	stop()
	if n := r.imagePins(); n != left {
		t.Errorf("%d pins of images are left, want %d", n, left)
	}
}

// redefine lets a package evaluate to something else from now on.
func (r *rig) redefine(t *testing.T, name, other string) nixstore.StorePath {
	t.Helper()
	recipe := storetest.Recipe{Name: other}
	out := r.store.AddRecipe(recipe)
	r.fill(t, out.Path, "bin/"+name, "#!/bin/sh\necho "+other+"\n")
	r.eval.Define(name, func() []nixstore.Output { return []nixstore.Output{r.store.AddRecipe(recipe)} })
	r.eval.SetFingerprint(other)
	return out.Path
}

func TestWhatWasPulledLatelyIsNotCollected(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.define(t, "redis")
	doc := r.manifest(t, "pkgs/redis", "latest")
	r.manifest(t, "pkgs/redis", "latest")
	if n := r.pins.Count(); n != 1 {
		t.Errorf("%d pins after two pulls of one image: %v", n, r.roots())
	}
	r.collect(t)
	r.restart(t, registry.Config{})
	r.collect(t)
	for _, l := range doc.Layers {
		r.get(t, "/v2/pkgs/redis/blobs/"+l.Digest).wantStatus(t, http.StatusOK)
	}
}

func TestAKnownManifestReadsNoFileOfTheClosure(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.define(t, "redis")
	doc := r.manifest(t, "pkgs/redis", "latest")
	r.restart(t, registry.Config{})
	if err := os.Rename(r.storeDir(), r.storeDir()+"-away"); err != nil {
		t.Fatal(err)
	}
	for _, reference := range []string{"latest", doc.digest} {
		for _, method := range []string{http.MethodHead, http.MethodGet} {
			r.do(t, method, "/v2/pkgs/redis/manifests/"+reference).wantStatus(t, http.StatusOK)
		}
	}
	r.get(t, "/v2/pkgs/redis/blobs/"+doc.Config.Digest).wantStatus(t, http.StatusOK)
	if got := r.get(t, "/v2/pkgs/redis/blobs/"+doc.Layers[0].Digest); got.StatusCode < 400 || strings.Contains(got.body, r.dir) {
		t.Errorf("a layer that cannot be read gave %d: %s", got.StatusCode, got.body)
	}
}

func TestPinsOfImagesLapse(t *testing.T) {
	t.Parallel()
	cfg := registry.Config{Keep: time.Hour}
	r := newRigWith(t, cfg)
	redis, curl := r.define(t, "redis"), r.define(t, "curl")
	doc := r.manifest(t, "pkgs/redis", "latest")
	r.manifest(t, "pkgs/curl", "latest")
	r.age(t, redis, 59*time.Minute)
	r.age(t, curl, 61*time.Minute)
	r.sweep(t, cfg, 1)
	// A use counts from now, on disk too.
	r.get(t, "/v2/pkgs/redis/manifests/"+doc.digest).wantStatus(t, http.StatusOK)
	pin := r.pins.List(nixstore.HolderImage)[0]
	if used, err := r.pins.Used(pin.Holder); err != nil || pin.Root != redis || time.Since(used) > 10*time.Minute {
		t.Errorf("the pin of %s was used at %s, %v", pin.Root, used, err)
	}

	r.age(t, redis, 61*time.Minute)
	r.sweep(t, cfg, 0)
	r.collect(t)
	// It is made again, and is the same.
	if again := r.manifest(t, "pkgs/redis", "latest"); again.digest != doc.digest {
		t.Errorf("the digest was %s and is %s", doc.digest, again.digest)
	}
}

func TestFault54AClockThatJumpedDropsNoPin(t *testing.T) {
	t.Parallel()
	cfg := registry.Config{Keep: time.Hour}
	r := newRigWith(t, cfg)
	redis, curl := r.define(t, "redis"), r.define(t, "curl")
	r.manifest(t, "pkgs/redis", "latest")
	r.manifest(t, "pkgs/curl", "latest")
	r.age(t, redis, -48*time.Hour) // used the day after tomorrow
	r.age(t, curl, 61*time.Minute)
	r.sweep(t, cfg, 1)
}

func TestPinsOfPullsWithoutAnAnswerAreSwept(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	root := r.add(t, "tool", "a tool.")
	left := nixstore.Holder{Kind: nixstore.HolderImage, Name: strings.Repeat("0", 32) + ".pull"}
	if err := r.pins.Put(left, root); err != nil {
		t.Fatal(err)
	}
	r.restart(t, registry.Config{})
	if n := r.imagePins(); n != 0 {
		t.Errorf("%d pins are left", n)
	}
}

func TestAPullInProgressOutlivesAChangeOfThePackageSet(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.define(t, "redis")
	old := r.manifest(t, "pkgs/redis", "latest")
	newRoot := r.redefine(t, "redis", "redis-2")
	now := r.manifest(t, "pkgs/redis", "latest")
	if now.digest == old.digest {
		t.Fatal("the tag still means the old image")
	}
	r.collect(t)
	whole := func() {
		t.Helper()
		for _, doc := range []document{old, now} {
			r.get(t, "/v2/pkgs/redis/manifests/"+doc.digest).wantStatus(t, http.StatusOK)
			for _, l := range doc.Layers {
				got := r.get(t, "/v2/pkgs/redis/blobs/"+l.Digest).wantStatus(t, http.StatusOK)
				if digestOf(got.body) != l.Digest {
					t.Errorf("the layer %s is %s", l.Digest, digestOf(got.body))
				}
			}
		}
	}
	whole()
	// After a restart too, and with no evaluation: the pins tell.
	r.restart(t, registry.Config{})
	evaluations := r.eval.Count()
	whole()
	if n := r.eval.Count() - evaluations; n != 0 {
		t.Errorf("%d evaluations for digests that are pinned", n)
	}
	if n := r.store.Count("build", newRoot); n != 1 {
		t.Errorf("the new root was built %d times", n)
	}
	// The digests belong to this name alone.
	r.define(t, "curl")
	r.get(t, "/v2/pkgs/curl/manifests/"+old.digest).wantError(t, http.StatusNotFound, "MANIFEST_UNKNOWN", "no image of pkgs/curl")
}

func TestAfterARestartADigestIsFoundByItsName(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.define(t, "redis")
	doc := r.manifest(t, "pkgs/redis", "latest")
	for _, pin := range r.pins.List(nixstore.HolderImage) {
		if err := r.pins.Drop(pin.Holder); err != nil {
			t.Fatal(err)
		}
	}
	r.restart(t, registry.Config{})
	r.get(t, "/v2/pkgs/redis/manifests/"+doc.digest).wantStatus(t, http.StatusOK)
	r.restart(t, registry.Config{})
	r.get(t, "/v2/pkgs/redis/blobs/"+doc.Layers[0].Digest).wantStatus(t, http.StatusOK)
}

func TestThePinStaysWhileABlobIsSent(t *testing.T) {
	t.Parallel()
	r := newRigWith(t, registry.Config{Keep: time.Second})
	root := r.add(t, "big", strings.Repeat("0123456789abcdef", 4<<20/16))
	for n := range 16 { // more than the buffers of both ends of a connection
		r.fill(t, root, "more/"+string(rune('a'+n)), strings.Repeat("0123456789abcdef", 4<<20/16))
	}
	name := "store/" + root.Hash()
	doc := r.manifest(t, name, "latest")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.server.URL+"/v2/"+name+"/blobs/"+doc.Layers[0].Digest, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := r.server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	other := r.add(t, "other", "another one.")
	r.manifest(t, "store/"+other.Hash(), "latest")
	stop := r.run(t)
	eventually(t, "a pin goes that was used later", func() bool { return r.imagePins() <= 1 })
	if pins := r.pins.List(nixstore.HolderImage); len(pins) != 1 || pins[0].Root != root {
		t.Errorf("the pins are %v while a blob is being sent", pins)
	}
	if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}
	eventually(t, "the pin goes when the client is gone", func() bool { return r.imagePins() == 0 })
	stop()
}

func TestADamagedLayerIsNeverWhole(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	root := r.add(t, "tool", strings.Repeat("a tool. ", 100000))
	name := "store/" + root.Hash()
	doc := r.manifest(t, name, "latest")
	file := filepath.Join(r.storeDir(), root.BaseName(), "bin", "tool")
	if err := os.WriteFile(file, []byte(strings.Repeat("a tomb. ", 100000)), 0o755); err != nil {
		t.Fatal(err)
	}
	got := r.get(t, "/v2/"+name+"/blobs/"+doc.Layers[0].Digest)
	if got.err == nil && got.StatusCode == http.StatusOK {
		t.Errorf("%d bytes that do not have the digest came as a whole", len(got.body))
	}
	// What the store holds now is another image; the old digest is nobody's.
	now := r.manifest(t, name, "latest")
	if now.digest == doc.digest {
		t.Error("the old manifest is still served")
	}
	r.get(t, "/v2/"+name+"/manifests/"+doc.digest).wantError(t, http.StatusNotFound, "MANIFEST_UNKNOWN", "no image of")
	for _, l := range now.Layers {
		if got := r.get(t, "/v2/"+name+"/blobs/"+l.Digest).wantStatus(t, http.StatusOK); digestOf(got.body) != l.Digest {
			t.Errorf("the layer %s is %s", l.Digest, digestOf(got.body))
		}
	}
}

func TestAClosureThatWasLostByHandIsMadeAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	redis := r.define(t, "redis")
	doc := r.manifest(t, "pkgs/redis", "latest")
	r.store.Lose(redis)
	if again := r.manifest(t, "pkgs/redis", "latest"); again.digest != doc.digest {
		t.Errorf("the digest was %s and is %s", doc.digest, again.digest)
	}
	for _, l := range doc.Layers {
		r.get(t, "/v2/pkgs/redis/blobs/"+l.Digest).wantStatus(t, http.StatusOK)
	}
}
