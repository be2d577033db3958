package localtriton

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// UnfitError says what keeps a server from starting on this machine, and what to do about it.
type UnfitError struct{ What, Remedy string }

func (e *UnfitError) Error() string { return e.What + ": " + e.Remedy }

const (
	// The run folder holds links, the log with the part before it, and what models put into their TMPDIR.
	minRunRoom = 2*maxLogBytes + 4<<20
	// What a model's process takes in /dev/shm: 1 MiB to begin with, which is all that mini's take, and 1 MiB more
	// when its tensors do not fit (shm-growth-byte-size of the Python backend).
	minModelMemory = 2 << 20
)

// checkRoom looks for the space that a server of so many models needs. Triton itself would say of a full
// /dev/shm that a model's stub failed, and of a full disk nothing at all.
func checkRoom(runDir, shared string, models int) error {
	if free, err := freeBytes(runDir); err != nil {
		return err
	} else if free < minRunRoom {
		return fullDisk(runDir, fmt.Sprintf("has %s left, but its log alone may take %s", size(free), size(2*maxLogBytes)))
	}
	free, err := freeBytes(shared)
	if err != nil {
		return err
	}
	if need := uint64(models) * minModelMemory; free < need {
		return &UnfitError{
			What: fmt.Sprintf("%s has %s left, but %d models need %s of shared memory", shared, size(free), models, size(need)),
			Remedy: "make it larger (docker run --shm-size=256m, `shm_size: 256m` in compose, a Memory emptyDir at /dev/shm in Kubernetes), " +
				"or remove what other programs have left in it",
		}
	}
	return nil
}

func fullDisk(dir, what string) error {
	return &UnfitError{What: fmt.Sprintf("the run folder %s is on a full disk: it %s", dir, what),
		Remedy: "free some space there, or name a folder on another disk with --run-dir"}
}

// explain makes an UnfitError of an error that a full disk caused.
func explain(err error, runDir string) error {
	var path *fs.PathError
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		what := err.Error()
		if errors.As(err, &path) {
			what = fmt.Sprintf("does not take %s (%v)", filepath.Base(path.Path), path.Err)
		}
		return fullDisk(runDir, what)
	}
	return err
}

// freeBytes is how much this user may still write to the file system of dir, or of the nearest folder
// above it that exists.
func freeBytes(dir string) (uint64, error) {
	for {
		var stat unix.Statfs_t
		err := unix.Statfs(dir, &stat)
		if err == nil {
			return stat.Bavail * uint64(stat.Bsize), nil
		}
		parent := filepath.Dir(dir)
		if !errors.Is(err, fs.ErrNotExist) || parent == dir {
			return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
		}
		dir = parent
	}
}

// size is n in MiB.
func size(n uint64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
