package nixeval

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"

	"github.com/closured/closured/nixstore"
)

// answer is what our Nix files give as JSON. A user's words have a part in
// every string of it.
type answer struct {
	Outputs []answerOutput `json:"outputs"`
	Name    string         `json:"name"`    // the package that Wrong or Missing is about
	Wrong   string         `json:"wrong"`   // what the value is, if it is no derivation
	Missing *[]string      `json:"missing"` // the names beside one that is not there
	Source  string         `json:"source"`
}

type answerOutput struct {
	DrvPath    string `json:"derivation"`
	OutPath    string `json:"path"`
	OutputName string `json:"output"`
}

const outputsMax = 1024

func parseAnswer(j *job, data []byte) (answer, error) {
	var a answer
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&a)
	if err == nil {
		if _, more := decoder.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows it")
		}
	}
	if err != nil {
		return answer{}, nixstore.Fail(nixstore.ErrEvaluation, "use a derivation that Nix itself made",
			"%s gives something that is no derivation (%s)", j.what, cutText(err.Error(), 60))
	}
	return a, nil
}

// toOutputs checks the answer of a job. Its errors are ErrEvaluation and ErrNotFound.
func (a answer) toOutputs(j *job) ([]nixstore.Output, error) {
	object := j.what
	if a.Name != "" {
		object = "package " + nixstore.Quote(a.Name)
	}
	switch {
	case a.Wrong != "":
		return nil, nixstore.Fail(nixstore.ErrEvaluation, "name something that can be built, such as pkgs.hello",
			"%s is %s and no derivation", object, cutText(a.Wrong, 60))
	case a.Missing != nil:
		return nil, missing(a.Name, *a.Missing)
	case len(a.Outputs) == 0:
		return nil, nixstore.Fail(nixstore.ErrEvaluation, "name at least one derivation", "%s gives an empty list", object)
	case len(a.Outputs) > outputsMax:
		return nil, nixstore.Fail(nixstore.ErrEvaluation, "make one package of them", "%s gives %d derivations", object, len(a.Outputs))
	}
	outputs := make([]nixstore.Output, 0, len(a.Outputs))
	for _, o := range a.Outputs {
		output, problem := o.toOutput()
		if problem != "" {
			return nil, nixstore.Fail(nixstore.ErrEvaluation, "use a derivation that Nix itself made",
				"%s gives a derivation that cannot be used: %s", object, problem)
		}
		outputs = append(outputs, output)
	}
	return outputs, nil
}

func (o answerOutput) toOutput() (output nixstore.Output, problem string) {
	drv, err := nixstore.ParseStorePath(o.DrvPath)
	if err != nil || !drv.IsDerivation() {
		return nixstore.Output{}, "its drvPath is no derivation"
	}
	if o.OutPath != "" && strings.Count(o.OutPath, "/") == 1 {
		return nixstore.Output{}, "its path is known only after the build (it is content-addressed)"
	}
	out, err := nixstore.ParseStorePath(o.OutPath)
	if err != nil || out.IsDerivation() {
		return nixstore.Output{}, "its outPath is no store path"
	}
	if !isOutputName(o.OutputName) {
		return nixstore.Output{}, "the name of its output is malformed"
	}
	return nixstore.Output{Path: out, Derivation: drv, Name: o.OutputName}, ""
}

// isOutputName follows the grammar of store path names; a dash may not begin
// it, since it becomes part of arguments.
func isOutputName(s string) bool {
	if s == "" || len(s) > 64 || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		if !isAlphanumeric(s[i]) && strings.IndexByte("+-._?=", s[i]) < 0 {
			return false
		}
	}
	return true
}

func missing(name string, beside []string) error {
	next := "look the name up in the operator's package set"
	parts := strings.Split(name, ".")
	if near := nearest(parts[len(parts)-1], beside); near != "" {
		next = "perhaps " + nixstore.Quote(near) + " is meant"
	}
	return nixstore.Fail(nixstore.ErrNotFound, next, "the package set has no package %s", nixstore.Quote(name))
}
