package nixeval_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/closured/closured/nixstore/nixeval/jail"
)

func TestMain(m *testing.M) {
	jail.MaybeChild()
	goleak.VerifyTestMain(m)
}
