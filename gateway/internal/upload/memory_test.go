// The race detector takes several times the memory that it watches.

//go:build !race

package upload

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/facediffuser/facediffuser/gateway/internal/picture"
	"github.com/facediffuser/facediffuser/gateway/internal/picture/picturetest"
)

// The whole gateway has to stay under 200 MiB with 16 requests of four
// progressive 12-megapixel JPEGs in flight; scripts/bench.py measures that. This
// is its largest part alone: uploads and decoding behind a real HTTP server, in a
// process of its own that reports the most it was resident. The pictures are
// 4:4:4, which takes twice the memory of the usual 4:2:0, and 5 MB each; the
// references stay, at SD 1.5's 512. One picture a request is enough, as the peak
// comes from what is held at once (with four it is higher by the references).
const maxResident = 150 << 20

const memoryChild = "UPLOAD_MEMORY_CHILD" // number of pictures a request

func TestMemoryOfSixteenUploads(t *testing.T) { checkMemory(t) }

// The tests of a build run under the race detector, its benchmarks do not.
func BenchmarkMemoryOfSixteenUploads(b *testing.B) {
	for b.Loop() {
		b.ReportMetric(float64(checkMemory(b)>>20), "MiB-resident")
	}
}

func checkMemory(t testing.TB) int64 {
	t.Helper()
	resident := residentOfChild(t, 1)
	if resident > maxResident {
		t.Errorf("%d MiB resident, at most %d are allowed", resident>>20, maxResident>>20)
	}
	return resident
}

func residentOfChild(t testing.TB, pictures int) int64 {
	t.Helper()
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), fmt.Sprintf("%s=%d", memoryChild, pictures))
	child.Stderr = os.Stderr
	out, err := child.Output()
	if err != nil {
		t.Fatal(err)
	}
	resident, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	if err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	return resident
}

func init() {
	if pictures := os.Getenv(memoryChild); pictures != "" {
		if err := uploadAndReport(pictures); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

func uploadAndReport(pictures string) error {
	n, err := strconv.Atoi(pictures)
	if err != nil {
		return err
	}
	strip, err := os.ReadFile("../picture/testdata/strip.jpg")
	if err != nil {
		return err
	}
	photo := picturetest.TallJPEG(strip, 3000, 5<<20)
	in := NewIntake(picture.NewDecoder(picture.Limits{}, 512), Limits{})
	var mu sync.Mutex
	var kept []*picture.Reference
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		form, err := in.ReadForm(r.Context(), RequestBody(w, r), 4)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		defer form.Close()
		mu.Lock()
		defer mu.Unlock()
		kept = append(kept, form.Images...)
	}))
	defer server.Close()

	failed := make(chan error)
	for range 16 {
		go func() { failed <- post(server, photo, n) }()
	}
	for range 16 {
		if err := <-failed; err != nil {
			return err
		}
	}
	if len(kept) != 16*n {
		return fmt.Errorf("%d references, want %d", len(kept), 16*n)
	}
	resident, err := mostResident()
	if err != nil {
		return err
	}
	fmt.Println(resident)
	return nil
}

// post sends a form of n times the same picture without another copy of it.
func post(server *httptest.Server, photo []byte, n int) error {
	var parts []io.Reader
	for range n {
		parts = append(parts, strings.NewReader("--b\r\nContent-Disposition: form-data; name=\"image[]\"; filename=\"a.jpg\"\r\n\r\n"),
			bytes.NewReader(photo), strings.NewReader("\r\n"))
	}
	parts = append(parts, strings.NewReader("--b--\r\n"))
	resp, err := server.Client().Post(server.URL, "multipart/form-data; boundary=b", io.MultiReader(parts...))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("%s: %s", resp.Status, text)
	}
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
