package localtriton

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// fullVariable makes this test binary start a server in a run folder on a small file system, or with a small
// /dev/shm, which it mounts where nobody else sees it.
const fullVariable = "LOCALTRITON_TEST_FULL"

// playFull mounts a tmpfs and says what Start makes of it.
func playFull(what string) error {
	on, options, runDir := "", "", os.Getenv("LOCALTRITON_TEST_DIR")
	switch what {
	case "disk":
		on, options = runDir, "size=1m"
	case "inodes":
		on, options = runDir, "size=64m,nr_inodes=4"
	case "shm":
		on, options = sharedMemory, "size=1m"
	}
	if err := unix.Mount("tmpfs", on, "tmpfs", 0, options); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	_, err := Start(context.Background(), Config{Python: os.Getenv("FACEDIFFUSER_PYTHON"), ModelsDir: os.Getenv("LOCALTRITON_TEST_MODELS"), RunDir: runDir})
	fmt.Println("start says:", err)
	return nil
}

// TestNoRoom causes a full disk and a small /dev/shm in namespaces of their own, which need no privilege where the
// kernel lets users make them.
func TestNoRoom(t *testing.T) {
	interpreter := python(t)
	models := oneModel(t, t.TempDir())
	for what, wants := range map[string][]string{
		"disk":   {"is on a full disk: it has 1.0 MiB left, but its log alone may take 16.0 MiB", "--run-dir"},
		"inodes": {"is on a full disk: it does not take", "(no space left on device)", "--run-dir"},
		"shm":    {"/dev/shm has 1.0 MiB left, but 1 models need 2.0 MiB of shared memory", "--shm-size"},
	} {
		t.Run(what, func(t *testing.T) {
			command := exec.Command(os.Args[0], "-test.run=^$")
			command.Env = append(os.Environ(), fullVariable+"="+what, "LOCALTRITON_TEST_DIR="+t.TempDir(), "LOCALTRITON_TEST_MODELS="+models, "FACEDIFFUSER_PYTHON="+interpreter)
			command.SysProcAttr = &syscall.SysProcAttr{
				Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
				UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
				GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
			}
			output, err := command.CombinedOutput()
			if errors.Is(err, fs.ErrPermission) && os.Getuid() == 0 { // root may mount without a user namespace
				command = &exec.Cmd{Path: command.Path, Args: command.Args, Env: command.Env, SysProcAttr: &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}}
				output, err = command.CombinedOutput()
			}
			if err != nil {
				t.Fatalf("%v: %s\nthis test mounts a small tmpfs: as root, or in a user namespace, which the kernel must allow "+
					"(sysctl kernel.apparmor_restrict_unprivileged_userns=0 on Ubuntu)", err, output)
			}
			for _, want := range wants {
				if !strings.Contains(string(output), want) {
					t.Errorf("%s\ndoes not say %q", output, want)
				}
			}
		})
	}
}

// TestFullDiskIsExplained: a write that fails for want of room, on the kernel's own full device, gets the advice.
func TestFullDiskIsExplained(t *testing.T) {
	link := filepath.Join(t.TempDir(), "state.json")
	if err := os.Symlink("/dev/full", link); err != nil {
		t.Fatal(err)
	}
	err := explain(fmt.Errorf("wrapped: %w", os.WriteFile(link, []byte("x"), 0o600)), "/run/x")
	var unfit *UnfitError
	if !errors.As(err, &unfit) || !strings.Contains(err.Error(), "the run folder /run/x is on a full disk: it does not take state.json (no space left on device)") {
		t.Errorf("%v", err)
	}
	if other := errors.New("other"); errors.As(explain(other, "/run/x"), &unfit) {
		t.Error("another error was changed")
	}
}
