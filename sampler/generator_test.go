package sampler

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// randnTolerance is what PyTorch's vectorised ln, sin and cos may differ by.
const randnTolerance = 1e-6

// The C++ standard (rand.predef) fixes one value of this engine: the 10000th of seed 5489.
func TestMT19937KnownValue(t *testing.T) {
	g := NewGenerator(5489)
	var last uint32
	for range 10000 {
		last = g.Uint32()
	}
	if last != 4123659995 {
		t.Errorf("10000th integer of seed 5489 = %d, want 4123659995", last)
	}
}

func TestGeneratorEqualsTorch(t *testing.T) {
	f := open(t, "testdata/randn.safetensors")
	type draw struct {
		k    int // place in the sequence
		name string
	}
	sequences := map[string][]draw{} // seed → draws of one generator
	kinds := map[string]int{}
	for name := range f.Tensors {
		parts := strings.Split(name, "_")
		kinds[parts[0]]++
		g := NewGenerator(uint32(atoi(t, parts[1])))
		switch parts[0] {
		case "integers":
			for i, want := range int64s(t, f, name) {
				if got := g.Uint32(); int64(got) != want {
					t.Fatalf("%s: integer %d = %d, want %d", name, i, got, want)
				}
			}
		case "randn":
			compareRandn(t, name, g, float32s(t, f, name))
		case "sequence":
			sequences[parts[1]] = append(sequences[parts[1]], draw{atoi(t, parts[2]), name})
		default:
			t.Errorf("unknown tensor %s", name)
		}
	}
	for _, kind := range []string{"integers", "randn", "sequence"} {
		if kinds[kind] == 0 {
			t.Errorf("the file holds no %s", kind)
		}
	}
	for seed, draws := range sequences {
		slices.SortFunc(draws, func(a, b draw) int { return a.k - b.k })
		g := NewGenerator(uint32(atoi(t, seed)))
		for _, d := range draws {
			compareRandn(t, d.name, g, float32s(t, f, d.name))
		}
	}
}

func compareRandn(t *testing.T, name string, g *Generator, want []float32) {
	t.Helper()
	got := make([]float32, len(want))
	g.Randn(got)
	if worst := maxDifference(got, want); !(worst <= randnTolerance) {
		t.Errorf("%s differs by %g", name, worst)
	}
}

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestRandnIsStandardNormal(t *testing.T) {
	for _, size := range []int{15, 1 << 16} { // both paths
		g := NewGenerator(3407)
		block := make([]float32, size)
		var n, sum, squares float64
		for n < 1<<16 {
			g.Randn(block)
			for _, v := range block {
				n++
				sum += float64(v)
				squares += float64(v) * float64(v)
			}
		}
		// Five standard errors.
		if mean := sum / n; math.Abs(mean) > 5/math.Sqrt(n) {
			t.Errorf("size %d: mean %v", size, mean)
		}
		if variance := squares / n; math.Abs(variance-1) > 5*math.Sqrt(2/n) {
			t.Errorf("size %d: variance %v", size, variance)
		}
	}
}

func TestRandnIsFinite(t *testing.T) {
	block := make([]float32, normalBlock) // all uniforms 0: radius 0
	boxMuller(block)
	for j := range halfBlock {
		block[j] = 1 - 1.0/(1<<24) // the largest uniform: the largest radius
	}
	boxMuller(block)
	for _, v := range block {
		if math.IsNaN(float64(v)) || math.Abs(float64(v)) > 6 {
			t.Errorf("normal of an extreme uniform = %v", v)
		}
	}
}

func FuzzRandnLength(f *testing.F) {
	for _, n := range []uint16{0, 1, 15, 16, 17, 31, 33, 1024} {
		f.Add(uint32(3407), n)
	}
	f.Fuzz(func(t *testing.T, seed uint32, n uint16) {
		a, b := make([]float32, n), make([]float32, n)
		NewGenerator(seed).Randn(a)
		NewGenerator(seed).Randn(b)
		for i, v := range a {
			if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
				t.Fatalf("element %d is %v", i, v)
			}
		}
		if !slices.Equal(a, b) {
			t.Fatal("one seed gave two tensors")
		}
	})
}

func BenchmarkRandn4x64x64(b *testing.B) {
	g := NewGenerator(1)
	noise := make([]float32, 4*64*64)
	b.ReportAllocs()
	for b.Loop() {
		g.Randn(noise)
	}
}
