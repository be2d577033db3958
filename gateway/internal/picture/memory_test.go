// The race detector takes several times the memory that it watches.

//go:build !race

package picture

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/facediffuser/facediffuser/gateway/internal/picture/picturetest"
)

// One progressive JPEG of the most pixels that are accepted, decoded in a process
// of its own that reports the most it was resident.
func TestMemoryOfOneLargePicture(t *testing.T) {
	for name, most := range map[string]int64{"4:4:4": 400 << 20, "4:2:0": 256 << 20} {
		t.Run(name, func(t *testing.T) {
			child := exec.CommandContext(t.Context(), os.Args[0])
			child.Env = append(os.Environ(), memoryChild+"="+name)
			child.Stderr = os.Stderr
			out, err := child.Output()
			if err != nil {
				t.Fatal(err)
			}
			resident, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
			if err != nil {
				t.Fatalf("%v in %q", err, out)
			}
			t.Logf("%d MiB resident", resident>>20)
			if resident > most {
				t.Errorf("%d MiB resident, at most %d are allowed", resident>>20, most>>20)
			}
		})
	}
}

const memoryChild = "PICTURE_MEMORY_CHILD" // the chroma subsampling of the picture

func init() {
	if subsampling := os.Getenv(memoryChild); subsampling != "" {
		if err := decodeAndReport(subsampling); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

func decodeAndReport(subsampling string) error {
	factors := map[string]byte{"4:4:4": 0x11, "4:2:0": 0x22}[subsampling]
	photo := picturetest.FlatJPEG(8192, 6144, factors, picturetest.ScanMeans, picturetest.ScanTexture(1), picturetest.ScanTexture(2), picturetest.ScanTexture(3), picturetest.ScanMeansLast)
	photo = append(photo, make([]byte, 32<<20-len(photo))...) // as many bytes as are accepted
	if _, err := NewDecoder(Limits{}, 512).Decode(context.Background(), bytes.NewReader(photo)); err != nil {
		return err
	}
	resident, err := mostResident()
	if err != nil {
		return err
	}
	fmt.Println(resident)
	return nil
}

// mostResident is the peak of the process's resident memory, in bytes.
func mostResident() (int64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	fields := strings.Fields(rest)
	if len(fields) < 1 {
		return 0, fmt.Errorf("no VmHWM in %q", status)
	}
	kib, err := strconv.ParseInt(fields[0], 10, 64)
	return kib << 10, err
}
