package serve_test

import (
	"bufio"
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/closured/closured/driver/serve"
	"github.com/closured/closured/nixstore"
)

// staleSocket leaves a socket at path as kill -9 does: a process binds it, and dies.
func staleSocket(t *testing.T, path string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHelperListens$")
	cmd.Env = append(os.Environ(), "SERVE_TEST_SOCKET="+path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "listening\n" {
		t.Fatalf("the helper said %q, %v", line, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it ends by the signal, which Wait calls an error
	if !exists(path) {
		t.Fatal("no socket was left")
	}
}

// TestHelperListens is no test but the process that staleSocket starts.
func TestHelperListens(t *testing.T) {
	path := os.Getenv("SERVE_TEST_SOCKET")
	if path == "" {
		t.Skip("this is the helper process of other tests")
	}
	if _, err := new(net.ListenConfig).Listen(t.Context(), "unix", path); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stdout.WriteString("listening\n"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Hour) // until it is killed
}

func TestFault13StaleSocketIsTakenOver(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	path := filepath.Join(dir, "csi.sock")
	staleSocket(t, path)
	run(t, config(dir, &driver{name: "new"}))
	if name := nameAt(t, path); name != "new" {
		t.Errorf("%q answers on the socket", name)
	}
}

func TestFault13SocketIsRootsAlone(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(shortDir(t), "made", "here")
	r := run(t, config(dir, &driver{}))
	info, err := os.Lstat(filepath.Join(dir, "csi.sock"))
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode(); got != fs.ModeSocket|0o600 {
		t.Errorf("the socket's mode is %v", got)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("the folder holds %v (%v), want the socket alone", entries, err)
	}
	r.stop(t)
	if exists(filepath.Join(dir, "csi.sock")) {
		t.Error("the socket is still there after a clean stop")
	}
}

func TestFault13SecondInstanceIsRefused(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	path := filepath.Join(dir, "csi.sock")
	run(t, config(dir, &driver{name: "first"}))
	second, err := serve.New(config(dir, &driver{name: "second"}))
	if err != nil {
		t.Fatal(err)
	}
	err = second.Run(t.Context())
	if !errors.Is(err, nixstore.ErrConflict) || !strings.Contains(err.Error(), path) {
		t.Errorf("the second instance ends with %v, want ErrConflict that names the socket", err)
	}
	if name := nameAt(t, path); name != "first" {
		t.Errorf("%q answers on the socket after that", name)
	}
}

func TestFault13ForeignFileIsLeftAlone(t *testing.T) {
	t.Parallel()
	for name, place := range map[string]func(path string) error{
		"a file":   func(path string) error { return os.WriteFile(path, []byte("x"), 0o600) },
		"a folder": func(path string) error { return os.Mkdir(path, 0o755) },
		"a link":   func(path string) error { return os.Symlink("/etc/passwd", path) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := shortDir(t)
			path := filepath.Join(dir, "csi.sock")
			if err := place(path); err != nil {
				t.Fatal(err)
			}
			before, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			s, err := serve.New(config(dir, &driver{}))
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Run(t.Context()); !errors.Is(err, nixstore.ErrConflict) || !strings.Contains(err.Error(), "no socket") {
				t.Errorf("Run: %v", err)
			}
			after, err := os.Lstat(path)
			if err != nil || !os.SameFile(before, after) {
				t.Errorf("what was there is gone: %v", err)
			}
		})
	}
}

// TestFault13RemovedSocketComesBack takes the socket away in three ways while a call runs.
func TestFault13RemovedSocketComesBack(t *testing.T) {
	t.Parallel()
	for name, take := range map[string]func(t *testing.T, dir string){
		"removed": func(t *testing.T, dir string) {
			t.Helper()
			must(t, os.Remove(filepath.Join(dir, "csi.sock")))
		},
		"removed with its folder": func(t *testing.T, dir string) {
			t.Helper()
			must(t, os.RemoveAll(dir))
		},
		"replaced by a dead one": func(t *testing.T, dir string) {
			t.Helper()
			other := filepath.Join(dir, "other.sock")
			staleSocket(t, other)
			must(t, os.Rename(other, filepath.Join(dir, "csi.sock")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(shortDir(t), "csi")
			path := filepath.Join(dir, "csi.sock")
			started, release := make(chan struct{}), make(chan struct{})
			d := &driver{name: "ours", publish: func(context.Context, *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
				close(started)
				<-release
				return &csi.NodePublishVolumeResponse{}, nil
			}}
			run(t, config(dir, d))
			conn := dial(t, path)
			answer := make(chan error, 1)
			go func() {
				_, err := csi.NewNodeClient(conn).NodePublishVolume(t.Context(), &csi.NodePublishVolumeRequest{})
				answer <- err
			}()
			<-started

			before, err := os.Lstat(path)
			must(t, err)
			take(t, dir)
			eventually(t, "a new socket that answers", func() bool {
				now, err := os.Lstat(path)
				return err == nil && !os.SameFile(before, now) && nameAt(t, path) == "ours"
			})
			close(release)
			if err := <-answer; err != nil {
				t.Errorf("the call that ran meanwhile ends with %v", err)
			}
			if info, err := os.Lstat(path); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("the new socket: %v, %v", info, err)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFault13SocketTakenByALivingServerEndsRun(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	path := filepath.Join(dir, "csi.sock")
	r := run(t, config(dir, &driver{name: "first"}))
	other := filepath.Join(dir, "other.sock")
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", other)
	must(t, err)
	defer func() { _ = l.Close() }()
	must(t, os.Rename(other, path))
	r.ended = true
	if err := <-r.done; !errors.Is(err, nixstore.ErrConflict) {
		t.Errorf("Run ends with %v, want ErrConflict", err)
	}
	if !exists(path) {
		t.Error("the other server's socket was removed")
	}
}

func TestSocketThatCannotBeMadeAgainIsTold(t *testing.T) {
	t.Parallel()
	base := shortDir(t)
	dir := filepath.Join(base, "csi")
	r := run(t, config(dir, &driver{name: "ours"}))
	file := filepath.Join(base, "file")
	must(t, os.WriteFile(file, nil, 0o600))
	// A file is now where the folder was, so that nobody can make a socket there.
	must(t, unix.Renameat2(unix.AT_FDCWD, file, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE))
	eventually(t, "the server says that it is not ready", func() bool { return r.server.Ready() != nil })
	must(t, os.Remove(dir))
	eventually(t, "the server recovers", func() bool {
		return r.server.Ready() == nil && nameAt(t, filepath.Join(dir, "csi.sock")) == "ours"
	})
}

func TestStopWaitsForRunningCallsUpToItsLimit(t *testing.T) {
	t.Parallel()
	started := make(chan struct{}, 2)
	d := &driver{publish: func(ctx context.Context, req *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
		started <- struct{}{}
		if req.GetVolumeId() == "stuck" {
			<-ctx.Done()
			return nil, status.FromContextError(ctx.Err()).Err()
		}
		time.Sleep(100 * time.Millisecond)
		return &csi.NodePublishVolumeResponse{}, nil
	}}
	for id, want := range map[string]codes.Code{"slow": codes.OK, "stuck": codes.Unavailable} {
		dir := shortDir(t)
		cfg := config(dir, d)
		cfg.StopLimit = 500 * time.Millisecond
		r := run(t, cfg)
		conn := dial(t, filepath.Join(dir, "csi.sock"))
		answer := make(chan error, 1)
		go func() {
			_, err := csi.NewNodeClient(conn).NodePublishVolume(t.Context(), &csi.NodePublishVolumeRequest{VolumeId: id})
			answer <- err
		}()
		<-started
		r.stop(t)
		if got := status.Code(<-answer); got != want {
			t.Errorf("the %s call ends with %v, want %v", id, got, want)
		}
	}
}

func TestSocketPath(t *testing.T) {
	t.Parallel()
	for endpoint, want := range map[string]string{
		"unix:///csi/csi.sock": "/csi/csi.sock", "unix:/csi/csi.sock": "/csi/csi.sock", "/csi/csi.sock": "/csi/csi.sock",
	} {
		if got, err := serve.SocketPath(endpoint); got != want || err != nil {
			t.Errorf("SocketPath(%q) = %q, %v", endpoint, got, err)
		}
	}
	for _, endpoint := range []string{
		"", "/", "unix://", "unix:///", "csi.sock", "unix://csi/csi.sock", "tcp://127.0.0.1:1", "unix:@csi", "/a/../b", "/a//b", "/a/", "/a\x00b",
		"/" + strings.Repeat("a", 107), "/" + strings.Repeat("a", 100) + "/b",
	} {
		if _, err := serve.SocketPath(endpoint); !errors.Is(err, nixstore.ErrInvalid) {
			t.Errorf("SocketPath(%q): %v, want ErrInvalid", endpoint, err)
		}
	}
}

func FuzzSocketPath(f *testing.F) {
	f.Add("unix:///csi/csi.sock")
	f.Add("/a/../b")
	f.Fuzz(func(t *testing.T, endpoint string) {
		got, err := serve.SocketPath(endpoint)
		if err != nil {
			return
		}
		if !filepath.IsAbs(got) || filepath.Clean(got) != got || strings.ContainsRune(got, 0) || len(got) > 107 {
			t.Errorf("SocketPath(%q) = %q", endpoint, got)
		}
	})
}
