package jail_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/closured/closured/nixstore/nixeval/jail"
)

func TestSpecsThatCannotBeRun(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*jail.Spec){
		"no program":               func(s *jail.Spec) { s.Args = nil },
		"root":                     func(s *jail.Spec) { s.UID = 0 },
		"root's group":             func(s *jail.Spec) { s.GID = 0 },
		"a NUL in an argument":     func(s *jail.Spec) { s.Args = append(s.Args, "a\x00b") },
		"a NUL in a variable":      func(s *jail.Spec) { s.Env = []string{"A=\x00"} },
		"a relative source":        func(s *jail.Spec) { s.Binds = []jail.Bind{{From: "x", To: "/x"}} },
		"a bind over the root":     func(s *jail.Spec) { s.Binds = []jail.Bind{{From: "/x", To: "/"}} },
		"a bind that leads out":    func(s *jail.Spec) { s.Binds = []jail.Bind{{From: "/x", To: "/../x"}} },
		"a file that leads out":    func(s *jail.Spec) { s.Files = map[string][]byte{"/a/../../x": nil} },
		"a link of relative name":  func(s *jail.Spec) { s.Links = map[string]string{"x": "/x"} },
		"a source that is unclean": func(s *jail.Spec) { s.Binds = []jail.Bind{{From: "/x/..", To: "/x"}} },
	}
	for name, change := range tests {
		spec := jail.Spec{Args: []string{"/bin/true"}, UID: 1, GID: 1}
		change(&spec)
		if _, err := jail.Run(t.Context(), spec, nil, 1, 1); !errors.Is(err, jail.ErrSpec) {
			t.Errorf("%s: got %v, want %v", name, err, jail.ErrSpec)
		}
	}
}

// What cannot be run is refused before anything starts, with all that is wrong.
func ExampleRun() {
	_, err := jail.Run(context.Background(), jail.Spec{
		Args:  []string{"/bin/busybox", "echo", "hello"},
		Binds: []jail.Bind{{From: "busybox", To: "/bin/busybox"}},
	}, nil, 1<<10, 1<<10)
	fmt.Println(err)
	// Output:
	// invalid jail specification: uid and gid must not be 0
	// invalid jail specification: bind of "busybox" to "/bin/busybox" is not between clean absolute paths
}
