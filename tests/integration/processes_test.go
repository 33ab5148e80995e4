//go:build privileged

package integration_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// process is one process as proc(5) shows it. What could not be read is empty.
type process struct {
	pid, parent int
	started     string // time since boot: tells processes with the same id apart
	args        string
	env         string
}

func (p process) String() string { return strconv.Itoa(p.pid) + " " + p.args }

// processes gives all processes that are not zombies.
func processes() []process {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	var all []process
	for _, dir := range dirs {
		if p, ok := readProcess(dir); ok {
			all = append(all, p)
		}
	}
	return all
}

func readProcess(dir string) (process, bool) {
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return process{}, false
	}
	// The name, in brackets, may hold anything.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return process{}, false
	}
	pid, err := strconv.Atoi(filepath.Base(dir))
	if err != nil {
		return process{}, false
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return process{}, false
	}
	read := func(name string) string {
		data, _ := os.ReadFile(filepath.Join(dir, name)) // gone, or a kernel thread
		return strings.TrimSpace(strings.ReplaceAll(string(data), "\x00", " "))
	}
	return process{pid: pid, parent: parent, started: fields[19], args: read("cmdline"), env: read("environ")}, true
}

// processesOf gives the processes that belong to the node in dir: those with the
// folder in their arguments or environment, and those in a mount namespace of
// their own, such as builders and evaluators, that show something of it.
func processesOf(dir string) []process {
	own, _ := os.Readlink("/proc/self/ns/mnt")
	var found []process
	for _, p := range processes() {
		if p.pid == os.Getpid() {
			continue
		}
		if strings.Contains(p.args, dir) || strings.Contains(p.env, dir) || shows(p.pid, own, dir) {
			found = append(found, p)
		}
	}
	return found
}

func shows(pid int, ownNamespace, dir string) bool {
	base := "/proc/" + strconv.Itoa(pid)
	namespace, err := os.Readlink(base + "/ns/mnt")
	if err != nil || namespace == ownNamespace {
		return false
	}
	mounts, _ := os.ReadFile(base + "/mountinfo")
	for line := range bytes.Lines(mounts) {
		// A namespace that was merely copied, as that of each Nix daemon, has our
		// mounts at our places; a root of its own has something of ours elsewhere.
		fields := strings.Fields(string(line)) // proc(5): the fourth is the part that is shown, the fifth where
		if len(fields) > 4 && strings.Contains(fields[3], dir+"/") && !strings.Contains(fields[4], dir) {
			return true
		}
	}
	return false
}

// builders gives the builders that run now whose environment holds marker, such
// as "name=slow" for a derivation of that name. Processes that a builder starts
// are not counted.
func builders(marker string) []process {
	all := processes()
	marked := map[int]bool{}
	for _, p := range all {
		marked[p.pid] = strings.Contains(" "+p.env+" ", " "+marker+" ")
	}
	var found []process
	for _, p := range all {
		if marked[p.pid] && !marked[p.parent] {
			found = append(found, p)
		}
	}
	return found
}
