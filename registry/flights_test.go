package registry_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/storetest"
	"github.com/closured/closured/registry"
)

// slow lets builds wait until release is called.
func (r *rig) slow(tb testing.TB) (release func()) {
	tb.Helper()
	open := make(chan struct{})
	r.store.SetHook(func(ctx context.Context, s storetest.Step) error {
		if s.Op == "build" {
			select {
			case <-open:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return r.step(ctx, s)
	})
	release = sync.OnceFunc(func() { close(open) })
	tb.Cleanup(release)
	return release
}

func TestFault02FiftyColdPullsAreOneRealisation(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	redis := r.define(t, "redis")
	release := r.slow(t)
	var pulls sync.WaitGroup
	for range 50 {
		pulls.Go(func() {
			got, err := r.try(t.Context(), http.MethodGet, "/v2/pkgs/redis/manifests/latest")
			if err != nil || got.StatusCode != http.StatusOK {
				t.Errorf("a pull gave %v, %v", got.Response, err)
			}
		})
	}
	eventually(t, "all wait", func() bool { return r.metric(t, "closured_registry_waiting") == 50 })
	release()
	pulls.Wait()
	if builds, images := r.store.Count("build", redis), r.images.count.Load(); builds != 1 || images != 1 {
		t.Errorf("%d builds and %d images for 50 pulls", builds, images)
	}
	// All layers but the last, which holds no file of the store.
	layers := len(r.manifest(t, "pkgs/redis", "latest").Layers) - 1
	if images, hashed := r.metric(t, "closured_registry_images_computed_total"), r.metric(t, "closured_registry_layers_computed_total"); images != 1 || hashed != float64(layers) {
		t.Errorf("%v images and %v layers were computed, and it has %d", images, hashed, layers)
	}
	if stats := r.provider.Stats(); stats.Realisations != 1 || stats.Evaluations != 1 {
		t.Errorf("the provider did %+v", stats)
	}
}

func TestAPullThatWaitsIsToldWhyAndJoinsNextTime(t *testing.T) {
	t.Parallel()
	r := newRigWith(t, registry.Config{Hold: 50 * time.Millisecond})
	redis := r.define(t, "redis")
	release := r.slow(t)
	eventually(t, "the answer tells how far it is", func() bool {
		got := r.get(t, "/v2/pkgs/redis/manifests/latest")
		got.wantError(t, http.StatusTooManyRequests, "TOOMANYREQUESTS", "pkgs/redis is not ready yet")
		if seconds, err := strconv.Atoi(got.Header.Get("Retry-After")); err != nil || seconds < 1 || seconds > 60 {
			t.Errorf("Retry-After is %q", got.Header.Get("Retry-After"))
		}
		return strings.Contains(got.body, "building "+redis.String()) && strings.Contains(got.body, `"pathsKnown":1`)
	})
	// The same for whoever asks by digest.
	r.get(t, "/v2/pkgs/redis/blobs/"+absent).wantError(t, http.StatusTooManyRequests, "TOOMANYREQUESTS", "not ready yet")
	release()
	eventually(t, "the image is there", func() bool { return r.get(t, "/v2/pkgs/redis/manifests/latest").StatusCode == http.StatusOK })
	if n := r.store.Count("build", redis); n != 1 {
		t.Errorf("it was built %d times", n)
	}
}

func TestComputingDigestsGoesOnBeyondARequest(t *testing.T) {
	t.Parallel()
	r := newRigWith(t, registry.Config{Hold: 50 * time.Millisecond})
	r.define(t, "redis")
	open := make(chan struct{})
	hook := func(ctx context.Context) error {
		select {
		case <-open:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	r.images.hook.Store(&hook)
	eventually(t, "the answer tells what is done", func() bool {
		return strings.Contains(r.get(t, "/v2/pkgs/redis/manifests/latest").body, "computing digests")
	})
	close(open)
	eventually(t, "the image is there", func() bool { return r.get(t, "/v2/pkgs/redis/manifests/latest").StatusCode == http.StatusOK })
	// The last request found the image that the first one began.
	if n := r.images.count.Load(); n > 2 {
		t.Errorf("%d images were made", n)
	}
}

func TestAPullThatNobodyWaitsForIsGivenUp(t *testing.T) {
	t.Parallel()
	r := newRigWith(t, registry.Config{Linger: 20 * time.Millisecond})
	redis := r.define(t, "redis")
	r.slow(t)
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan struct{})
	go func() {
		defer close(left)
		if _, err := r.try(ctx, http.MethodGet, "/v2/pkgs/redis/manifests/latest"); !errors.Is(err, context.Canceled) {
			t.Errorf("a client that left got %v", err)
		}
	}()
	eventually(t, "it is being built", func() bool { return r.store.Count("realise", redis) > 0 })
	leave()
	<-left
	eventually(t, "nothing runs", func() bool { return r.metric(t, "closured_registry_flights") == 0 })
	eventually(t, "no pin of the pull is left", func() bool { return len(r.pins.List(nixstore.HolderImage)) == 0 })
	// The provider has a grace of its own, in which the next one joins.
	r.provider.Close()
	if n := r.pins.Count(); n != 0 {
		t.Errorf("%d pins are left: %v", n, r.roots())
	}
}

// A client that says that it sends no more is no longer told from one that left.
func TestAClientThatStopsSendingIsNotToldThatAllIsWell(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	redis := r.define(t, "redis")
	r.slow(t)
	conn, ok := dial(t, r.server.Listener.Addr().String()).(*net.TCPConn)
	if !ok {
		t.Fatal("no TCP")
	}
	send(t, conn, "GET /v2/pkgs/redis/manifests/latest HTTP/1.1\r\nHost: x\r\n\r\n")
	eventually(t, "it is being built", func() bool { return r.store.Count("realise", redis) > 0 })
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil || strings.Contains(string(answer), " 200 ") {
		t.Errorf("it was told %q, %v", answer, err)
	}
}

func TestFailuresAreToldInTheWordsOfTheirKind(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		err    error
		status int
		code   string
		part   string
	}{
		{"a failing evaluation", nixstore.Fail(nixstore.ErrEvaluation, "mend it", "infinite recursion"), 422, "UNKNOWN", "infinite recursion; next: mend it"},
		{"an unsigned path", nixstore.Fail(nixstore.ErrUntrusted, "", "nobody signed it"), 403, "DENIED", "nobody signed it"},
		{"a dead daemon", nixstore.Fail(nixstore.ErrUnavailable, "", "the daemon is down"), 503, "UNKNOWN", "the daemon is down"},
		{"a full disk", nixstore.Fail(nixstore.ErrNoSpace, "", "no space left below /var/lib/closured/nix"), 503, "UNKNOWN", "no space left below [path]"},
		{"an error that nobody judged", errors.New("open /var/lib/secret: token=abc"), 500, "UNKNOWN", "the registry has a fault"},
	} {
		r := newRig(t)
		r.define(t, "redis")
		r.eval.SetHook(func(context.Context) error { return c.err })
		got := r.get(t, "/v2/pkgs/redis/manifests/latest")
		got.wantError(t, c.status, c.code, c.part)
		if strings.Contains(got.body, "/var/") || strings.Contains(got.body, "token") {
			t.Errorf("%s: the body tells too much: %s", c.name, got.body)
		}
		if (got.Header.Get("Retry-After") != "") != (c.status == 503) {
			t.Errorf("%s: Retry-After is %q", c.name, got.Header.Get("Retry-After"))
		}
		if n := len(r.pins.List(nixstore.HolderImage)); n != 0 {
			t.Errorf("%s: %d pins are left", c.name, n)
		}
	}
}

func TestAFailingBuildIsNotRepeatedByAFlood(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.eval.Define("broken", func() []nixstore.Output {
		return []nixstore.Output{r.store.AddRecipe(storetest.Recipe{Name: "broken", Fails: true})}
	})
	for range 20 {
		r.get(t, "/v2/pkgs/broken/manifests/latest").wantError(t, 422, "UNKNOWN", "the builder of")
	}
	if n := r.store.Count("build", nixstore.StorePath{}); n != 1 {
		t.Errorf("it was built %d times", n)
	}
}

func TestTooMuchIsRefusedAndNotQueuedForEver(t *testing.T) {
	t.Parallel()
	r := newRigWith(t, registry.Config{Hold: time.Hour, Limits: registry.Limits{Cold: 1, Flights: 2, Waiting: 3}})
	for _, name := range []string{"a", "b", "c", "known"} {
		r.define(t, name)
	}
	r.manifest(t, "pkgs/known", "latest")
	release := r.slow(t)
	var pulls sync.WaitGroup
	pull := func(name string) {
		pulls.Go(func() {
			got, err := r.try(t.Context(), http.MethodGet, "/v2/pkgs/"+name+"/manifests/latest")
			if err != nil || got.StatusCode != http.StatusOK {
				t.Errorf("the pull of %s gave %v, %v", name, got, err)
			}
		})
		eventually(t, "it waits", func() bool { return r.metric(t, "closured_registry_waiting") > 0 })
	}
	pull("a")
	pull("b")
	eventually(t, "two fly", func() bool { return r.metric(t, "closured_registry_flights") == 2 })
	r.get(t, "/v2/pkgs/c/manifests/latest").wantError(t, 429, "TOOMANYREQUESTS", "too many images are being made")
	r.manifest(t, "pkgs/known", "latest") // has nothing to make
	pull("a")
	eventually(t, "three wait", func() bool { return r.metric(t, "closured_registry_waiting") == 3 })
	r.get(t, "/v2/pkgs/a/manifests/latest").wantError(t, 429, "TOOMANYREQUESTS", "too many requests are waiting")
	release()
	pulls.Wait()
}
