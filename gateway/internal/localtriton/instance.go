package localtriton

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// markVariable is set to an instance's random mark in the environment of
	// tritonserver, from which its model processes inherit it. A process is known
	// by this mark, never by a number that the kernel may give to another one.
	markVariable = "FACEDIFFUSER_TRITON"
	sharedMemory = "/dev/shm"
	stateFile    = "state.json"
	// socketName and socketPort make the name of Triton's socket, grpc:8001.
	socketName = "grpc"
	socketPort = "8001"
	// maxSocketPath is sun_path of the kernel's sockaddr_un without its final zero.
	maxSocketPath = 107
)

// instance is what one Server owns on disk and in shared memory.
type instance struct {
	state
	dir  string
	lock *os.File // flock held as long as the owner lives
	root *os.File // dir, opened
}

// state is what the next Start must know to clean up after a killed owner.
type state struct {
	Mark         string `json:"mark"`
	SharedMemory string `json:"shared_memory_prefix"`
}

// newInstance cleans up after dead owners in runDir and makes a folder there.
func newInstance(ctx context.Context, runDir string, logger *slog.Logger) (*instance, error) {
	if err := os.MkdirAll(runDir, 0o700); err != nil {
		return nil, err
	}
	// Held while folders are swept and made, so that no one sweeps a folder
	// between its making and its locking.
	door, err := lockFile(filepath.Join(runDir, "triton.lock"), unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer door.Close()
	if err := sweep(ctx, runDir, logger); err != nil {
		return nil, err
	}
	mark := strings.ToLower(rand.Text())
	in := &instance{
		state: state{Mark: mark, SharedMemory: "facediffuser_" + mark[:12] + "_"},
		dir:   filepath.Join(runDir, "triton-"+mark[:12]),
	}
	if err := os.Mkdir(in.dir, 0o700); err != nil {
		return nil, err
	}
	if err := in.claim(); err != nil {
		return nil, errors.Join(err, in.remove())
	}
	return in, nil
}

func (in *instance) claim() (err error) {
	if in.lock, err = lockFile(filepath.Join(in.dir, "lock"), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return err
	}
	data, err := json.Marshal(in.state)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(in.dir, stateFile), data, 0o600); err != nil {
		return err
	}
	in.root, err = os.Open(in.dir)
	return err
}

// address is where Triton, whose working directory is the instance's, listens. The folder lets nobody
// but this user in.
func (in *instance) address() string {
	path := filepath.Join(in.dir, socketName+":"+socketPort)
	if len(path) > maxSocketPath {
		// The kernel takes no longer path, but finds the folder by its descriptor.
		path = fmt.Sprintf("/proc/self/fd/%d/%s:%s", in.root.Fd(), socketName, socketPort)
	}
	return (&url.URL{Scheme: "unix", Path: path}).String()
}

// remove gives everything back. No process of the instance may be left.
func (in *instance) remove() error {
	errs := []error{removeSharedMemory(in.SharedMemory)}
	errs = append(errs, os.RemoveAll(in.dir))
	for _, file := range []*os.File{in.root, in.lock} {
		if file != nil {
			errs = append(errs, file.Close())
		}
	}
	return errors.Join(errs...)
}

// sweep ends what dead owners have left in runDir. Folders of living owners are
// locked and stay untouched.
func sweep(ctx context.Context, runDir string, logger *slog.Logger) error {
	dirs, err := filepath.Glob(filepath.Join(runDir, "triton-*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		lock, err := lockFile(filepath.Join(dir, "lock"), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			continue
		}
		if err != nil {
			return err
		}
		err = func() error {
			defer lock.Close()
			var left state
			data, err := os.ReadFile(filepath.Join(dir, stateFile))
			if errors.Is(err, fs.ErrNotExist) {
				return os.RemoveAll(dir) // killed before it started anything
			}
			if err != nil {
				return err
			}
			if err := json.Unmarshal(data, &left); err != nil || len(left.Mark) < 20 || left.SharedMemory == "" {
				return fmt.Errorf("%s is not a state file of this program: remove %s", filepath.Join(dir, stateFile), dir)
			}
			killed, err := killMarked(ctx, left.Mark)
			if err != nil {
				return err
			}
			logger.Info("cleaned up after a gateway that was killed", "processes", killed, "folder", dir)
			return errors.Join(removeSharedMemory(left.SharedMemory), os.RemoveAll(dir))
		}()
		if err != nil {
			return fmt.Errorf("clean up after a killed gateway: %w", err)
		}
	}
	return nil
}

func lockFile(path string, how int) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), how); err != nil {
		file.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return file, nil
}

// killMarked kills every process that carries mark and waits until none is left.
// It returns how many it found.
func killMarked(ctx context.Context, mark string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	seen := make(map[int]bool)
	for {
		pids, err := markedProcesses(mark)
		if err != nil || len(pids) == 0 {
			return len(seen), err
		}
		for _, pid := range pids {
			seen[pid] = true
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return len(seen), fmt.Errorf("kill process %d: %w", pid, err)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return len(seen), fmt.Errorf("processes %v do not end: %w", pids, context.Cause(ctx))
		}
	}
}

// markedProcesses lists the processes of this user that carry mark. Dead ones that
// nobody has reaped have no environment any more and do not count.
func markedProcesses(mark string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	want := []byte(markVariable + "=" + mark + "\x00")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		environment, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "environ"))
		if err != nil {
			continue // another user's process, or gone meanwhile
		}
		if bytes.Contains(environment, want) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// modelProcesses are the children of a tritonserver, with the names of their models.
func modelProcesses(server int) map[int]string {
	found := make(map[int]string)
	for pid, p := range processes() {
		if p.parent != server {
			continue
		}
		// The stub's first argument is <repository>/<model>/<version>/model.py.
		arguments, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if parts := strings.Split(string(arguments), "\x00"); err == nil && len(parts) > 1 && filepath.Ext(parts[1]) == ".py" {
			found[pid] = filepath.Base(filepath.Dir(filepath.Dir(parts[1])))
		}
	}
	return found
}

// processorTime is what the processes of a group have used together.
func processorTime(group int) (used time.Duration) {
	for _, p := range processes() {
		if p.group == group {
			used += p.used
		}
	}
	return used
}

// process is what /proc says of one.
type process struct {
	state         string // "R", "S", "T" when stopped, "Z" when nobody has reaped it
	parent, group int
	used          time.Duration // processor time, its threads' together
}

// processes are all that there are now, by their number.
func processes() map[int]process {
	found := make(map[int]process)
	paths, _ := filepath.Glob("/proc/[0-9]*/stat") // fails only for a bad pattern
	for _, path := range paths {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			continue
		}
		if p, ok := readProcess(pid); ok {
			found[pid] = p
		}
	}
	return found
}

// alive says whether a process runs: it exists and does not wait to be reaped, which
// tritonserver never does.
func alive(pid int) bool {
	p, ok := readProcess(pid)
	return ok && p.state != "Z" && p.state != "X"
}

// readProcess reads /proc/<pid>/stat (proc_pid_stat(5)); ok is false if there is no such process.
func readProcess(pid int) (p process, ok bool) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return p, false
	}
	// pid (name) state ppid pgrp …; the name may hold anything but ends at the last ")".
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 13 {
		return p, false
	}
	var numbers [4]int
	for i, at := range []int{1, 2, 11, 12} { // ppid, pgrp, utime, stime
		if numbers[i], err = strconv.Atoi(fields[at]); err != nil {
			return p, false
		}
	}
	const tick = time.Second / 100 // USER_HZ, the same on every architecture that Triton runs on
	return process{state: fields[0], parent: numbers[0], group: numbers[1], used: time.Duration(numbers[2]+numbers[3]) * tick}, true
}

// closeSharedMemory keeps other users out of the regions whose names begin with prefix. The Python backend
// (Boost.Interprocess) makes them while it loads the models, for everybody to read, whatever the umask is.
// What comes later, reference faces among it, is put into these same regions.
func closeSharedMemory(prefix string) error {
	paths, err := filepath.Glob(filepath.Join(sharedMemory, prefix+"*"))
	for _, path := range paths {
		err = errors.Join(err, os.Chmod(path, 0o600))
	}
	return err
}

// removeSharedMemory unlinks the regions whose names begin with prefix.
func removeSharedMemory(prefix string) error {
	entries, err := os.ReadDir(sharedMemory)
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), prefix) {
			if err := os.Remove(filepath.Join(sharedMemory, entry.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}
