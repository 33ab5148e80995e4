//go:build privileged

package nixcli_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/nixcli"
)

func TestASettingOfTheOperator(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	dir := t.TempDir()
	for name, text := range map[string]string{
		"nix.conf": "include more.conf\n", "more.conf": "netrc-file = /secret/netrc # theirs\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	store, err := nixcli.Open(t.Context(), nixcli.Config{
		StateDir: nixtest.StateDir(t), OperatorConf: filepath.Join(dir, "nix.conf"), Options: map[string]string{"netrc-file": "/ours"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	if got, err := store.OperatorSetting(t.Context(), "netrc-file"); err != nil || got != "/secret/netrc" {
		t.Errorf("netrc-file is %q, %v", got, err)
	}
	if _, err := store.OperatorSetting(t.Context(), "no-such-thing"); !errors.Is(err, nixstore.ErrUnavailable) {
		t.Errorf("a setting that there is not: %v", err)
	}
}
