package layout

import (
	"strings"
	"testing"
)

// layers is the order of imports: a package may import its own layer and those
// before it. The first folder that matches decides.
var layers = []struct {
	dir   string
	layer int
}{
	{"nixstore/", 1},
	{"nixstore", 0},
	{"driver/view", 1},
	{"registry/closureimage", 1},
	{"internal", 1},
	{"api", 1},
	{"driver", 2},
	{"registry", 2},
	{"controller", 2},
	{"cmd", 3},
	{"tests", 3},
}

// denied lists imports that the order alone would allow. Paths that begin with
// a slash are below the module. Tests of a package may do what they need.
var denied = []struct {
	dir     string
	imports []string
	why     string
}{
	{"driver", []string{"/registry", "/controller", "/api"}, "siblings meet in cmd"},
	{"registry", []string{"/driver", "/controller", "/api"}, "siblings meet in cmd"},
	{"controller", []string{"/driver", "/registry"}, "siblings meet in cmd"},
	{"driver", []string{"k8s.io/client-go"}, "take an interface of one method"},
	{"driver", []string{"/nixstore/nixcli", "/nixstore/nixeval"}, "take the interfaces of nixstore"},
	{"controller", []string{"/nixstore/nixcli", "k8s.io/mount-utils"}, "the controller has no store and mounts nothing"},
	{"nixstore", []string{"google.golang.org/grpc", "k8s.io", "github.com/container-storage-interface"}, "the domain knows neither CSI nor Kubernetes"},
	{"registry", []string{"google.golang.org/grpc", "k8s.io", "github.com/container-storage-interface"}, "the registry speaks HTTP only"},
}

func TestImportsFollowTheOrder(t *testing.T) {
	t.Parallel()
	for _, f := range tree(t) {
		for _, spec := range f.ast.Imports {
			imported := strings.Trim(spec.Path.Value, `"`)
			if problem := importProblem(f, imported); problem != "" {
				t.Errorf("%s imports %s: %s", f.at(spec), imported, problem)
			}
		}
	}
}

func importProblem(f file, imported string) string {
	if f.test {
		return ""
	}
	own, inModule := strings.CutPrefix(imported, module+"/")
	if f.dir == "nixstore" && strings.Contains(strings.Split(imported, "/")[0], ".") {
		return "nixstore uses the standard library only"
	}
	if inModule && within(own, "cmd") {
		return "nobody imports cmd"
	}
	if inModule && layerOf(own) > layerOf(f.dir) {
		return "it stands further right in the order of imports"
	}
	for _, d := range denied {
		for _, bad := range d.imports {
			if f.under(d.dir) && within(imported, strings.Replace(bad, "/", module+"/", boolInt(bad[0] == '/'))) {
				return d.why
			}
		}
	}
	return ""
}

func layerOf(dir string) int {
	for _, l := range layers {
		if within(dir, strings.TrimSuffix(l.dir, "/")) && strings.HasPrefix(dir, l.dir) {
			return l.layer
		}
	}
	return 0
}

// TestLibrariesDoNotActForTheProgram keeps ends, output and contexts in cmd.
func TestLibrariesDoNotActForTheProgram(t *testing.T) {
	t.Parallel()
	for _, f := range tree(t) {
		if f.test || f.under("cmd") || f.under("tests") {
			continue
		}
		for _, c := range calls(f) {
			if problem := callProblem(f, c); problem != "" {
				t.Errorf("%s: %s in %s: %s", f.at(c.node), c.name, c.function, problem)
			}
		}
	}
}

func callProblem(f file, c call) string {
	switch {
	case c.name == "panic" && !strings.HasPrefix(c.function, "Must"):
		return "return an error"
	case c.name == "os.Exit" && f.path == "nixstore/nixeval/jail/child.go":
		return "" // the main function of a program of its own: this one, started again inside a jail
	case c.name == "os.Exit", strings.HasPrefix(c.name, "log.Fatal"), strings.HasPrefix(c.name, "log.Panic"):
		return "only cmd ends the program"
	case strings.HasPrefix(c.name, "fmt.Print"):
		return "use the logger"
	case c.name == "context.Background", c.name == "context.TODO":
		return "take a context"
	case strings.HasPrefix(c.name, "google.golang.org/grpc/status.") && f.path != "driver/status.go" && isStatusMaker(c.name):
		return "make statuses in driver/status.go only"
	}
	return ""
}

func isStatusMaker(name string) bool {
	switch name[strings.LastIndex(name, ".")+1:] {
	case "Error", "Errorf", "New", "Newf":
		return true
	}
	return false
}
