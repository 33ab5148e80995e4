package buildjob

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"

	"github.com/closured/closured/api/v1alpha1"
)

// Labels of Jobs and of their pods.
const (
	LabelManagedBy = "app.kubernetes.io/managed-by"
	ManagedBy      = "closured-controller" // LabelManagedBy's value

	LabelImage   = v1alpha1.Group + "/niximage" // name of the NixImage
	LabelSystem  = v1alpha1.Group + "/system"
	LabelBuild   = v1alpha1.Group + "/build" // digest of what is built, and how
	LabelRound   = v1alpha1.Group + "/round"
	LabelAttempt = v1alpha1.Group + "/attempt"
)

// Key says which build a Job is. Equal keys of one object are the same Job.
type Key struct {
	System  v1alpha1.System
	Build   string // see BuildHash
	Round   int64  // see v1alpha1.Resolution
	Attempt int    // from 0
}

// Inputs identifies the source and the config of an image for one system, and how
// images are made of closures: all that its digest depends on.
func Inputs(spec *v1alpha1.NixImageSpec, system v1alpha1.System, making string) string {
	return hash(struct {
		Attributes map[string]string
		System     v1alpha1.System
		Config     v1alpha1.ImageConfig
		Making     string `json:",omitempty"`
	}{attributes(spec, system), system, spec.Config, making})
}

// BuildHash identifies the inputs together with how they are built: a change of
// either makes another Job out of one that is under way.
func BuildHash(spec *v1alpha1.NixImageSpec, system v1alpha1.System, making string) string {
	return hash(struct {
		Inputs string
		Build  v1alpha1.BuildSettings
	}{Inputs(spec, system, making), spec.Build})
}

// hash gives 16 hexadecimal digits. JSON sorts the keys of maps.
func hash(v any) string {
	const digits = 16
	data, err := json.Marshal(v)
	if err != nil {
		data = fmt.Appendf(nil, "%#v", v) // cannot be: all fields are plain data
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])[:digits]
}

// Name gives the name of the Job with key of image.
func Name(image *v1alpha1.NixImage, key Key) string {
	// The Job's pods have its name as a label (63) and with a suffix of six.
	const prefixMax = 36
	prefix := image.Name
	if len(prefix) > prefixMax {
		prefix = prefix[:prefixMax]
	}
	prefix = strings.TrimRight(strings.ReplaceAll(prefix, ".", "-"), "-")
	return prefix + "-" + hash(struct {
		UID string
		Key Key
	}{string(image.UID), key})
}

func (k Key) labels(image *v1alpha1.NixImage) map[string]string {
	return map[string]string{
		LabelManagedBy: ManagedBy,
		LabelImage:     image.Name,
		LabelSystem:    string(k.System),
		LabelBuild:     k.Build,
		LabelRound:     strconv.FormatInt(k.Round, 10),
		LabelAttempt:   strconv.Itoa(k.Attempt),
	}
}

// KeyOf reads a Job's labels; false when they are not ours.
func KeyOf(job *batchv1.Job) (Key, bool) {
	l := job.Labels
	round, errRound := strconv.ParseInt(l[LabelRound], 10, 64)
	attempt, errAttempt := strconv.Atoi(l[LabelAttempt])
	if errRound != nil || errAttempt != nil || attempt < 0 || l[LabelSystem] == "" || l[LabelBuild] == "" {
		return Key{}, false
	}
	return Key{v1alpha1.System(l[LabelSystem]), l[LabelBuild], round, attempt}, true
}
