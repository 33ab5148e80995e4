package nixcli

import (
	"fmt"
	"strings"

	"github.com/closured/closured/nixstore"
)

func classify(outputs []nixstore.Output, exit int, told *account) error {
	if exit == 0 {
		return nil
	}
	return fmt.Errorf("exit %d: %s", exit, strings.Join(told.messages, " | "))
}
