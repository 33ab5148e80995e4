package nixeval

import (
	"errors"
	"strings"
	"testing"

	"github.com/closured/closured/nixstore"
)

const (
	testDrv = "/nix/store/0zy3yazxp85hwcl96c2irl16cmpgcd2a-hello.drv"
	testOut = "/nix/store/f1jqpyy97ibdx788f0rz8gq117sn4vcx-hello"
)

func TestAnswers(t *testing.T) {
	t.Parallel()
	j := &job{what: "the expression"}
	one := `{"derivation":"` + testDrv + `","path":"` + testOut + `","output":"out"}`
	tests := map[string]struct {
		text  string
		kind  error
		words string
	}{
		"an output":                      {`{"outputs":[` + one + `]}`, nil, ""},
		"no outputs":                     {`{"outputs":[]}`, nixstore.ErrEvaluation, "empty list"},
		"nothing":                        {``, nixstore.ErrEvaluation, "no derivation"},
		"something after it":             {`{"outputs":[` + one + `]} {}`, nixstore.ErrEvaluation, "something follows"},
		"another shape":                  {`[1]`, nixstore.ErrEvaluation, "no derivation"},
		"an unknown field":               {`{"outputs":[` + one + `],"x":1}`, nixstore.ErrEvaluation, "unknown field"},
		"a path that is none":            {`{"outputs":[{"derivation":"` + testDrv + `","path":"/nix/store/../x","output":"out"}]}`, nixstore.ErrEvaluation, "outPath is no store path"},
		"a content-addressed derivation": {`{"outputs":[{"derivation":"` + testDrv + `","path":"/1rz4g4znpzjwh1xymhjpm42vipw92pr73vdgl6xs1hycac8kf2n9","output":"out"}]}`, nixstore.ErrEvaluation, "content-addressed"},
		"a derivation that is none":      {`{"outputs":[{"derivation":"` + testOut + `","path":"` + testOut + `","output":"out"}]}`, nixstore.ErrEvaluation, "drvPath"},
		"an output that is an option":    {`{"outputs":[{"derivation":"` + testDrv + `","path":"` + testOut + `","output":"-x"}]}`, nixstore.ErrEvaluation, "name of its output"},
		"too many":                       {`{"outputs":[` + strings.Repeat(one+",", 1024) + one + `]}`, nixstore.ErrEvaluation, "1025 derivations"},
		"something else":                 {`{"wrong":"a set"}`, nixstore.ErrEvaluation, "the expression is a set"},
		"a package that is missing":      {`{"name":"reddis","missing":["redis"]}`, nixstore.ErrNotFound, `perhaps "redis"`},
	}
	for name, test := range tests {
		a, err := parseAnswer(j, []byte(test.text))
		if err == nil {
			_, err = a.toOutputs(j)
		}
		if !errors.Is(err, test.kind) {
			t.Errorf("%s: got %v, want %v", name, err, test.kind)
		}
		if err != nil && !strings.Contains(err.Error(), test.words) {
			t.Errorf("%s: got %q, want in it %q", name, err, test.words)
		}
	}
}

func FuzzAnswers(f *testing.F) {
	f.Add([]byte(`{"outputs":[{"derivation":"` + testDrv + `","path":"` + testOut + `","output":"out"}]}`))
	f.Add([]byte(`{"name":"a","missing":["b"]}`))
	f.Add([]byte(`{"wrong":"a set"}`))
	f.Add([]byte(`{"outputs":null} x`))
	f.Fuzz(func(t *testing.T, data []byte) {
		j := &job{what: "the expression"}
		a, err := parseAnswer(j, data)
		var outputs []nixstore.Output
		if err == nil {
			outputs, err = a.toOutputs(j)
		}
		if err != nil {
			if !errors.Is(err, nixstore.ErrEvaluation) && !errors.Is(err, nixstore.ErrNotFound) {
				t.Errorf("%v is of no kind", err)
			}
			return
		}
		if len(outputs) == 0 {
			t.Error("no error and no output")
		}
		for _, o := range outputs {
			if o.Path.IsZero() || !o.Derivation.IsDerivation() || o.Name == "" || o.Name[0] == '-' {
				t.Errorf("the output %+v was accepted", o)
			}
		}
	})
}

func TestErrorLines(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ stderr, want string }{
		"Nix 2.8": {
			"error: attribute 'x' missing\n\n       at /eval/source.nix:1:1:\n\n            1| secret.x\n             | ^\n(use '--show-trace' to show detailed location information)\n",
			"attribute 'x' missing",
		},
		"Nix 2.34 with colours": {
			"\x1b[31;1merror:\x1b[0m\n       … while calling\n         at /eval/source.nix:1:1:\n            1| secret\n\n       \x1b[31;1merror:\x1b[0m access to absolute path '\x1b[35;1m/etc/shadow\x1b[0m' is forbidden\n",
			"access to absolute path '/etc/shadow' is forbidden",
		},
		"a place in the line": {"error: syntax error, unexpected ';', at /eval/source.nix:1:7\n", "syntax error, unexpected ';'"},
		"our own file":        {"error: file /eval/source.nix is odd\n", "file the expression is odd"},
		"a password that somebody throws": {
			"error: cannot fetch https://user:hunter2@cache.example/x\n", "cannot fetch https://[redacted]@cache.example/x",
		},
		"nothing but warnings":  {"warning: x\ntrace: y\n", ""},
		"an error with no text": {"error:\n", ""},
	}
	for name, test := range tests {
		if got := errorLine(test.stderr); got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}

func FuzzErrorLines(f *testing.F) {
	f.Add("error: x")
	f.Add("\x1b[31merror:\x1b[0m access to path '/x' is forbidden in restricted mode")
	f.Fuzz(func(t *testing.T, stderr string) {
		line := errorLine(stderr)
		if strings.Contains(line, "\n") {
			t.Errorf("%q has several lines", line)
		}
		err := explain(&job{what: "the expression", network: true}, line)
		if len(err.Error()) > 500 || strings.ContainsAny(err.Error(), "\x00\n\x1b\r") {
			t.Errorf("the message is %q", err)
		}
	})
}
