package driver

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/closured/closured/nixstore"
)

func TestLocks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLocks()
		hurried := false
		free, err := l.try("a", "/1", func(error) { hurried = true })
		if err != nil {
			t.Fatal(err)
		}
		for _, taken := range [][2]string{{"a", "/2"}, {"b", "/1"}, {"a", "/1"}} {
			if _, err := l.try(taken[0], taken[1], nil); !errors.Is(err, nixstore.ErrBusy) {
				t.Errorf("%v: got %v, want ErrBusy", taken, err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		waited := make(chan error)
		go func() { _, err := l.wait(ctx, "b", "/1"); waited <- err }()
		synctest.Wait()
		if hurried {
			t.Error("an unpublish of another volume ended the publish")
		}
		if _, err := l.try("b", "/2", nil); !errors.Is(err, nixstore.ErrBusy) {
			t.Errorf("a publish overtook the unpublish that waits for its volume: %v", err)
		}
		cancel()
		if err := <-waited; !errors.Is(err, nixstore.ErrBusy) {
			t.Errorf("got %v, want ErrBusy", err)
		}
		go func() {
			free, err := l.wait(t.Context(), "a", "/2")
			free()
			waited <- err
		}()
		synctest.Wait()
		if !hurried {
			t.Error("an unpublish of the volume did not end the publish")
		}
		free()
		if err := <-waited; err != nil {
			t.Error(err)
		}
		if len(l.held)+len(l.waiting) > 0 {
			t.Errorf("%d keys and %d waits are left", len(l.held), len(l.waiting))
		}
	})
}
