package logtest_test

import (
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/closured/closured/internal/logtest"
)

func TestManyWriteAndOneReads(t *testing.T) {
	t.Parallel()
	var log logtest.Buffer
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			log.Logger(slog.LevelInfo).Info("told")
			log.Logger(slog.LevelInfo).Debug("not told")
			_ = log.String()
		})
	}
	all.Wait()
	if n := strings.Count(log.String(), `"msg":"told"`); n != 8 || strings.Contains(log.String(), "not told") {
		t.Errorf("%d lines:\n%s", n, log.String())
	}
}
