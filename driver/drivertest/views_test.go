package drivertest_test

import (
	"testing"

	"github.com/closured/closured/driver/drivertest"
	"github.com/closured/closured/nixstore"
)

func TestViews(t *testing.T) {
	t.Parallel()
	drivertest.RunViews(t, func(t *testing.T) drivertest.ViewsUnderTest {
		t.Helper()
		n := drivertest.NewNode(t)
		return drivertest.ViewsUnderTest{
			Views: n.Views, Base: n.KubeletDir,
			Roots: [2]nixstore.StorePath{drivertest.Root("redis"), drivertest.Root("curl")},
		}
	})
}
