package closureimage_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/registry/closureimage"
)

func TestManyCallersComputeEachLayerOnce(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	var parts []nixstore.StorePath
	for i := range 40 {
		parts = append(parts, s.add(t, fmt.Sprintf("part-%d", i), files{"f": string(make([]byte, 20_000+i))}))
	}
	root := s.add(t, "root", files{"bin/x*": "x"}, parts...)
	b := s.builder(t)
	var wg sync.WaitGroup
	for n := range 50 {
		wg.Go(func() {
			want := spec(root, closureimage.Root)
			if n%2 == 1 {
				want.Settings.User = "nobody" // another image with the same layers
			}
			if _, err := b.Image(t.Context(), want); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	image := mustImage(t, b, spec(root, closureimage.Root))
	if got, want := b.Stats(), (closureimage.Stats{Images: 2, Layers: int64(len(layersOf(t, image)) - 1)}); got != want {
		t.Errorf("computed were %+v, want %+v", got, want)
	}
	if s.closureReads() != 2 {
		t.Errorf("the closure was read %d times for 2 images", s.closureReads())
	}
}

func TestAnUpdateComputesNewLayersOnly(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	glibc := s.add(t, "glibc", files{"lib/libc.so": string(make([]byte, 100_000))})
	b := s.builder(t)
	mustImage(t, b, spec(s.add(t, "app-1", files{"bin/app*": "1"}, glibc), closureimage.Root))
	before := b.Stats().Layers
	mustImage(t, b, spec(s.add(t, "app-2", files{"bin/app*": "2"}, glibc), closureimage.Root))
	if got := b.Stats().Layers - before; got != 1 {
		t.Errorf("%d layers were computed for an update of the root, want 1", got)
	}
}

func TestTheLastCallerWhoLeavesEndsTheWork(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	root := sample(t, s)
	b := s.builder(t)
	began := make(chan struct{}, 2)
	var running atomic.Int64
	s.before = func(ctx context.Context) error {
		running.Add(1)
		defer running.Add(-1)
		began <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}
	ask := func() (context.CancelFunc, chan error) {
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() {
			_, err := b.Image(ctx, spec(root, closureimage.Root))
			result <- err
		}()
		return cancel, result
	}
	leaveFirst, first := ask()
	<-began
	leaveSecond, second := ask()
	leaveFirst()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("the first caller got %v", err)
	}
	// Whether the second one has joined yet or begins anew: in the end all is over.
	leaveSecond()
	if err := <-second; !errors.Is(err, context.Canceled) {
		t.Errorf("the second caller got %v", err)
	}
	if n := running.Load(); n != 0 {
		t.Errorf("%d runs go on for nobody", n)
	}
}

func TestACallerWhoLeavesDoesNotEndTheWorkOfOthers(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	root := sample(t, s)
	b := s.builder(t)
	inside, goOn := make(chan struct{}, 1), make(chan struct{})
	s.before = func(ctx context.Context) error {
		inside <- struct{}{}
		select {
		case <-goOn:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	ctx, leave := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := b.Image(ctx, spec(root, closureimage.Root))
		first <- err
	}()
	<-inside
	others := make(chan error, 1)
	joined := joinedContext{t.Context(), make(chan struct{})}
	go func() {
		_, err := b.Image(joined, spec(root, closureimage.Root))
		others <- err
	}()
	<-joined.waiting
	leave()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("the first caller got %v", err)
	}
	close(goOn)
	if err := <-others; err != nil {
		t.Errorf("the other caller got %v", err)
	}
	if s.closureReads() != 1 {
		t.Errorf("the closure was read %d times", s.closureReads())
	}
}

// joinedContext tells when somebody waits for its end: then its caller has joined.
type joinedContext struct {
	context.Context //nolint:containedctx // it is one
	waiting         chan struct{}
}

// Done is asked for by the wait alone, once.
func (j joinedContext) Done() <-chan struct{} {
	close(j.waiting)
	return j.Context.Done()
}

func TestAnotherRegistrationIsBusy(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	old := spec(sample(t, s), closureimage.Root)
	old.Registration = 99
	if _, err := s.builder(t).Image(t.Context(), old); !errors.Is(err, nixstore.ErrBusy) {
		t.Errorf("got %v, want ErrBusy", err)
	}
	if _, err := s.builder(t).Image(t.Context(), spec(nixstore.MustParseStorePath("/nix/store/0123456789abcdfghijklmnpqrsvwxyz-gone"), closureimage.Root)); !errors.Is(err, nixstore.ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
}

func TestAStreamEndsWithItsContext(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	i := mustImage(t, s.builder(t), spec(sample(t, s), closureimage.Root))
	ctx, cancel := context.WithCancel(t.Context())
	r, err := layersOf(t, i)[0].Open(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := r.Read(make([]byte, 100)); !errors.Is(err, context.Canceled) {
		t.Errorf("reading gave %v", err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

func TestStreamsLeaveNoDescriptors(t *testing.T) { // not parallel: others open some
	s := newStore(t)
	i := mustImage(t, s.builder(t), spec(sample(t, s), closureimage.Root))
	blobs := layersOf(t, i)
	before := descriptors(t)
	for _, b := range blobs {
		for offset := int64(0); offset < b.Size(); offset += b.Size()/11 + 1 {
			r, err := b.Open(t.Context(), offset)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = r.Read(make([]byte, 700)) // in the middle of something
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors are open, %d were before", after, before)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}
