// The race detector takes several times the memory that it watches.

//go:build !race

package picture

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/facediffuser/facediffuser/gateway/internal/picture/picturetest"
)

// make bench-bombs sets it.
var updateBombs = flag.Bool("update-bombs", false, "write the table of bombs into docs/images.md")

const (
	bombsDocs = "../../../docs/images.md"
	// mostResidentGrowth is for the largest pictures that are accepted; the file,
	// of up to 32 MiB, is part of it.
	mostResidentGrowth = 400 << 20
	// mostPasses is how often a file is read: for its format, size, orientation
	// and colours, and its pixels. What a pass reads anew is a buffer at most.
	mostPasses = 5
	buffers    = 1 << 20
)

// Each bomb is decoded in a process of its own: how much more that process was
// resident than one that decodes a small picture, how often it has read the
// file, and what came of it.
func TestBombs(t *testing.T) {
	photograph := picturetest.Photograph()
	small := decodeInChild(t, "a small picture", []byte(tinyGIF))
	var table strings.Builder
	table.WriteString("| bomb | file | outcome | peak, MiB | time |\n|---|---|---|---|---|\n")
	outcomes := map[string]string{} // by name: the outcome
	var ordinary decoded
	for i, bomb := range picturetest.Bombs() {
		if i%8 == 0 { // the machine may be slower or faster than before
			ordinary = decodeInChild(t, "an ordinary photograph", photograph)
		}
		file := bomb.File()
		if len(file) > 32<<20 {
			t.Errorf("%s: %d bytes, more than a file may have", bomb.Name, len(file))
		}
		got := decodeInChild(t, bomb.Name, file)
		growth := max(0, got.Resident-small.Resident)
		if growth > mostResidentGrowth {
			t.Errorf("%s: %d MiB resident, at most %d are allowed", bomb.Name, growth>>20, mostResidentGrowth>>20)
		}
		if got.Read > mostPasses*int64(len(file))+buffers {
			t.Errorf("%s: %d bytes read of a file of %d", bomb.Name, got.Read, len(file))
		}
		outcomes[bomb.Name] = got.Outcome
		row := fmt.Sprintf("| %s | %s | %s | %d | %.1f |\n", bomb.Name, sizeOf(len(file)), got.Outcome, growth>>20, got.CPU.Seconds()/ordinary.CPU.Seconds())
		t.Log(strings.TrimSpace(row))
		table.WriteString(row)
	}
	const begin, end = "<!-- bombs: written by make bench-bombs -->\n", "<!-- end of bombs -->\n"
	docs, err := os.ReadFile(bombsDocs)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(docs), begin)
	old, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no place for the table of bombs", bombsDocs)
	}
	if *updateBombs {
		if err := os.WriteFile(bombsDocs, []byte(before+begin+table.String()+end+after), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	documented := map[string]string{}
	for _, row := range regexp.MustCompile(`(?m)^\| (.*?) \| [0-9.]+ [kM]?B \| (.*?) \|`).FindAllStringSubmatch(old, -1) {
		documented[row[1]] = row[2]
	}
	for name, outcome := range outcomes {
		if documented[name] != outcome {
			t.Errorf("%s: %s; %s has %q: run make bench-bombs", name, outcome, bombsDocs, documented[name])
		}
	}
	if len(documented) != len(outcomes) {
		t.Errorf("%d bombs in %s, want %d: run make bench-bombs", len(documented), bombsDocs, len(outcomes))
	}
}

func sizeOf(n int) string {
	switch {
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%d B", n)
}

// tinyGIF is one pixel.
const tinyGIF = "GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"

const bombChild = "PICTURE_BOMB_CHILD" // the file

// decoded is what the process reports.
type decoded struct {
	Outcome  string
	Resident int64 // bytes
	Read     int64 // bytes
	CPU      time.Duration
}

func decodeInChild(t *testing.T, name string, file []byte) (d decoded) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bomb")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(path)
	child := exec.CommandContext(t.Context(), os.Args[0]) // itself
	child.Env = append(os.Environ(), bombChild+"="+path)
	child.Stderr = os.Stderr
	out, err := child.Output()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if err := json.Unmarshal(out, &d); err != nil {
		t.Fatalf("%s: %v in %q", name, err, out)
	}
	d.CPU = child.ProcessState.UserTime() + child.ProcessState.SystemTime()
	return d
}

func init() {
	if path := os.Getenv(bombChild); path != "" {
		if err := decodeBomb(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

func decodeBomb(path string) error {
	file, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	counted := &countedReader{ReadSeeker: bytes.NewReader(file)}
	d := decoded{Outcome: "decoded"}
	if _, err := NewDecoder(Limits{}, 512).Decode(context.Background(), counted); err != nil {
		d.Outcome = err.Error()
	}
	d.Read = counted.read
	if d.Resident, err = mostResident(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(d)
}

type countedReader struct {
	io.ReadSeeker
	read int64
}

func (r *countedReader) Read(p []byte) (int, error) {
	n, err := r.ReadSeeker.Read(p)
	r.read += int64(n)
	return n, err
}
