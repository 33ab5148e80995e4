package driver_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/closured/closured/driver/drivertest"
)

func TestFault01PublishAnswersBeforeItsDeadline(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name           string
		deadline, want time.Duration // deadline 0: none
	}{
		{"kubelet's two minutes", 2 * time.Minute, 115 * time.Second},
		{"no deadline", 0, 115 * time.Second},
		{"half a minute", 30 * time.Second, 25 * time.Second},
		{"a short one", 8 * time.Second, 4 * time.Second},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t)
				finish := n.Provider.AddSlow("slow")
				d := n.Driver(t)
				req := n.Publish(t, uid, map[string]string{"packages": "slow"})
				ctx := t.Context()
				if row.deadline > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, row.deadline)
					defer cancel()
				}
				begin := time.Now()
				_, err := d.NodePublishVolume(ctx, req)
				expect(t, err, codes.Aborted, "the closure of volume csi-"+uid+" is still being realised; next: wait, the next attempt joins")
				if took := time.Since(begin); took != row.want {
					t.Errorf("it answered after %s, want %s", took, row.want)
				}
				finish()
				_, err = d.NodePublishVolume(t.Context(), req)
				expect(t, err, codes.OK, "")
			})
		})
	}
}

func TestUnpublishWaitsNoLongerThanItsDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		hang := make(chan struct{})
		n.Views.Hook = func(step string) error {
			if step == "mount" {
				<-hang // a mount cannot be interrupted
			}
			return nil
		}
		d := n.Driver(t)
		req := n.Publish(t, uid, redis())
		start := n.State(t)
		published := make(chan error, 1)
		go func() {
			_, err := d.NodePublishVolume(t.Context(), req)
			published <- err
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begin := time.Now()
		_, err := d.NodeUnpublishVolume(ctx, drivertest.Unpublish(req))
		expect(t, err, codes.Aborted, "volume csi-"+uid+" cannot be unpublished while another call")
		if took := time.Since(begin); took != 55*time.Second {
			t.Errorf("it answered after %s", took)
		}
		close(hang)
		<-published
		_, err = d.NodeUnpublishVolume(t.Context(), drivertest.Unpublish(req))
		expect(t, err, codes.OK, "")
		expectState(t, n, start)
	})
}

func TestUnpublishIsNotOvertakenByNewPublishes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		hang := make(chan struct{})
		n.Views.Hook = func(step string) error {
			if step == "mount" {
				<-hang
			}
			return nil
		}
		d := n.Driver(t)
		req := n.Publish(t, uid, redis())
		answers := make(chan error, 2)
		go func() { _, err := d.NodePublishVolume(t.Context(), req); answers <- err }()
		synctest.Wait()
		go func() { _, err := d.NodeUnpublishVolume(t.Context(), drivertest.Unpublish(req)); answers <- err }()
		synctest.Wait()
		_, err := d.NodePublishVolume(t.Context(), req)
		expect(t, err, codes.Aborted, "another call for volume")
		close(hang)
		<-answers
		<-answers
		if n.Views.Mounts() != 0 {
			t.Error("the volume is mounted after its unpublish")
		}
	})
}
