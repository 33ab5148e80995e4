package nixeval_test

import (
	"testing"

	"github.com/closured/closured/nixstore/nixeval/jail"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	jail.MaybeChild()
	goleak.VerifyTestMain(m)
}
