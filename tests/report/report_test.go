package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSummaryCountsLeavesAndNamesReasons(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, events, want string
		fails              bool
	}{
		{
			name: "a parent is not counted beside its subtests",
			events: `{"Action":"run","Package":"p","Test":"A"}
{"Action":"pass","Package":"p","Test":"A/b"}
{"Action":"pass","Package":"p","Test":"A/c"}
{"Action":"pass","Package":"p","Test":"A"}
{"Action":"pass","Package":"p"}`,
			want: "\n2 passed, 0 failed, 0 skipped\n",
		},
		{
			name: "a skip is listed with its reason",
			events: `{"Action":"pass","Package":"p","Test":"A"}
{"Action":"output","Package":"p","Test":"B","Output":"=== RUN   B\n"}
{"Action":"output","Package":"p","Test":"B","Output":"    b_test.go:7: needs a newer kernel\n"}
{"Action":"output","Package":"p","Test":"B","Output":"--- SKIP: B (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"B"}`,
			want: "\nskipped:\n  needs a newer kernel: p B\n\n1 passed, 0 failed, 1 skipped\n",
		},
		{
			name: "a package that does not build is one failure",
			events: `{"Action":"build-fail","ImportPath":"p"}
{"Action":"start","Package":"p"}
{"Action":"fail","Package":"p","FailedBuild":"p"}`,
			want: "\nfailed:\n  p\n\n0 passed, 1 failed, 0 skipped\n", fails: true,
		},
		{
			name: "a test that never ends is a failure, and its package and parent are not counted again",
			events: `{"Action":"run","Package":"p","Test":"A"}
{"Action":"run","Package":"p","Test":"A/b"}
{"Action":"fail","Package":"p"}`,
			want: "\nfailed:\n  p A/b\n\n0 passed, 1 failed, 0 skipped\n", fails: true,
		},
		{
			name:   "no test at all is no success",
			events: `{"Action":"skip","Package":"p"}`,
			want:   "\n0 passed, 0 failed, 0 skipped\n", fails: true,
		},
		{
			name:   "a step that ended before its first test is one failure",
			events: "go: updates to go.mod needed\n",
			want:   "\nfailed:\n  events holds no result\n\n0 passed, 1 failed, 0 skipped\n", fails: true,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			checkSummary(t, tt.events, tt.want, tt.fails)
		})
	}
}

func checkSummary(t *testing.T, events, want string, fails bool) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "events")
	if err := os.WriteFile(file, []byte(events), 0o600); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	err := summarise([]string{file}, &out)
	if out.String() != want || (err != nil) != fails {
		t.Errorf("summarise gave %v and\n%s\nwant\n%s", err, out.String(), want)
	}
}

func TestSummaryOfSecondAttempts(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, events, want string
		fails              bool
	}{
		{
			name: "a test that passes at its second attempt is counted once, and named with its complaint",
			events: `{"Action":"run","Package":"p","Test":"A"}
{"Action":"run","Package":"p","Test":"A/b"}
{"Action":"output","Package":"p","Test":"A/b","Output":"    a_test.go:7: there are 2 mounts\n"}
{"Action":"fail","Package":"p","Test":"A/b"}
{"Action":"fail","Package":"p","Test":"A"}
{"Action":"fail","Package":"p"}
{"Action":"run","Package":"p","Test":"A"}
{"Action":"run","Package":"p","Test":"A/b"}
{"Action":"pass","Package":"p","Test":"A/b"}
{"Action":"pass","Package":"p","Test":"A"}
{"Action":"pass","Package":"p"}`,
			want: "\npassed at the second attempt:\n  p A/b\n    a_test.go:7: there are 2 mounts\n\n1 passed, 0 failed, 0 skipped\n",
		},
		{
			name: "a test that fails twice fails",
			events: `{"Action":"run","Package":"p","Test":"A"}
{"Action":"fail","Package":"p","Test":"A"}
{"Action":"run","Package":"p","Test":"A"}
{"Action":"fail","Package":"p","Test":"A"}`,
			want: "\nfailed:\n  p A\n\n0 passed, 1 failed, 0 skipped\n", fails: true,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			checkSummary(t, tt.events, tt.want, tt.fails)
		})
	}
}

func TestLiveShowsOnlyWhatFailed(t *testing.T) {
	t.Parallel()
	const events = `{"Action":"output","Package":"p","Test":"Good","Output":"chatter\n"}
{"Action":"pass","Package":"p","Test":"Good"}
{"Action":"output","Package":"p","Test":"Bad","Output":"want 1\n"}
{"Action":"fail","Package":"p","Test":"Bad"}
{"Action":"fail","Package":"p"}
`
	var keep, show strings.Builder
	if err := live(strings.NewReader(events), &keep, &show); err != nil {
		t.Fatal(err)
	}
	if keep.String() != events {
		t.Errorf("kept %q", keep.String())
	}
	if got, want := show.String(), "want 1\nFAIL  p\n"; got != want {
		t.Errorf("showed %q, want %q", got, want)
	}
}

func TestOnlyPlainFailuresAreTriedAgain(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, events, want string }{
		{
			name: "failed tests are named by package, without subtests and those that passed",
			events: `{"Action":"pass","Package":"p","Test":"Good"}
{"Action":"fail","Package":"p","Test":"B/c"}
{"Action":"fail","Package":"p","Test":"B"}
{"Action":"fail","Package":"p","Test":"A"}
{"Action":"fail","Package":"p"}
{"Action":"fail","Package":"q","Test":"C"}`,
			want: "p\tA|B\nq\tC\n",
		},
		{
			name:   "what does not build is not tried again",
			events: `{"Action":"fail","Package":"p","FailedBuild":"p"}`,
		},
		{
			name: "a data race stands",
			events: `{"Action":"output","Package":"p","Test":"A","Output":"WARNING: DATA RACE\n"}
{"Action":"fail","Package":"p","Test":"A"}`,
		},
		{
			name: "a panic stands, since it kept other tests from running",
			events: `{"Action":"output","Package":"p","Test":"A","Output":"panic: nil map\n"}
{"Action":"fail","Package":"p","Test":"A"}`,
		},
		{
			name: "a test that never ended stands",
			events: `{"Action":"run","Package":"p","Test":"A"}
{"Action":"fail","Package":"p","Test":"B"}`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "events")
			if err := os.WriteFile(file, []byte(tt.events), 0o600); err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			if err := listFailed(file, &out); err != nil || out.String() != tt.want {
				t.Errorf("listFailed gave %v and %q, want %q", err, out.String(), tt.want)
			}
		})
	}
}
