// helper does the small jobs of the test cluster that need no Kubernetes
// code: it makes certificates and kubeconfigs, packs container images, and
// is the sandbox (pause) process inside pods.
//
//	helper pki DIR API-SERVER-IP SERVICE-IP NODE=IP...
//	helper image OUT.tar NAME [entrypoint=WORD]... [PATH=FILE | PATH->TARGET | PATH/]...
//	helper pause
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	if len(os.Args) < 2 {
		fatal("usage: helper pki|image|pause ARGS...")
	}
	args := os.Args[2:]
	switch os.Args[1] {
	case "pki":
		if len(args) < 4 {
			fatal("usage: helper pki DIR API-SERVER-IP SERVICE-IP NODE=IP...")
		}
		check(pki(args[0], args[1], args[2], args[3:]))
	case "image":
		if len(args) < 2 {
			fatal("usage: helper image OUT.tar NAME [entrypoint=WORD]... [PATH=FILE|PATH->TARGET|PATH/]...")
		}
		check(image(args[0], args[1], args[2:]))
	case "pause":
		pause()
	default:
		fatal("helper: no command " + os.Args[1])
	}
}

// pause holds a pod's namespaces open and, where the pod shares its process
// namespace, reaps what the pod's containers leave behind.
func pause() {
	c := make(chan os.Signal, 16)
	signal.Notify(c, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for s := range c {
		if s != syscall.SIGCHLD {
			return
		}
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
}

func check(err error) {
	if err != nil {
		fatal("helper: " + err.Error())
	}
}

func fatal(s string) {
	fmt.Fprintln(os.Stderr, s)
	os.Exit(1)
}
