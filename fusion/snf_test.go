package fusion

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/facediffuser/facediffuser/internal/golden"
)

// nearTie is the difference of log-saliencies below which float32 may choose either model.
const nearTie = 1e-5

// predictions is one fusion step's input.
type predictions struct {
	channels, height, width            int
	tdmBase, tdmCond, sdmBase, sdmCond []float32
	w                                  float32
}

// result is what Fuse says about it.
type result struct {
	noise      []float32
	mask       []uint8
	sdmPixels  int
	difference []float32
}

func (in predictions) fuse() result {
	f := NewFuser(in.channels, in.height, in.width)
	out := result{
		noise:      make([]float32, len(in.tdmBase)),
		mask:       make([]uint8, in.height*in.width),
		difference: make([]float32, in.height*in.width),
	}
	out.sdmPixels = f.Fuse(out.noise, out.mask, in.tdmBase, in.tdmCond, in.sdmBase, in.sdmCond, in.w)
	f.LogSaliencyDifference(out.difference)
	return out
}

// guided is the guided noise of both models.
func (in predictions) guided() (tdm, sdm []float32) {
	tdm, sdm = make([]float32, len(in.tdmBase)), make([]float32, len(in.tdmBase))
	Guide(tdm, in.tdmBase, in.tdmCond, in.w)
	Guide(sdm, in.sdmBase, in.sdmCond, in.w)
	return tdm, sdm
}

// checkSelection holds what must be true of every fusion: each value is the guided noise of the
// model that the mask names, in all channels, and the pixels are counted right.
func checkSelection(t *testing.T, in predictions, out result) {
	t.Helper()
	tdm, sdm := in.guided()
	count := 0
	for p, choice := range out.mask {
		if choice > 1 {
			t.Fatalf("mask of pixel %d is %d", p, choice)
		}
		count += int(choice)
		from := tdm
		if choice == 1 {
			from = sdm
		}
		for k := p; k < len(from); k += len(out.mask) {
			if math.Float32bits(out.noise[k]) != math.Float32bits(from[k]) {
				t.Fatalf("element %d is %v, the chosen model has %v", k, out.noise[k], from[k])
			}
		}
	}
	if count != out.sdmPixels {
		t.Fatalf("%d pixels follow the SDM, %d were reported", count, out.sdmPixels)
	}
}

func TestFuseEqualsReference(t *testing.T) {
	paths, err := filepath.Glob("testdata/snf_*.safetensors")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no golden files (%v)", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".safetensors"), func(t *testing.T) {
			f, err := golden.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			tensor := func(name string) []float32 {
				v, err := f.Float32s(name)
				if err != nil {
					t.Fatal(err)
				}
				return v
			}
			var header struct {
				GuidanceScale float32 `json:"guidance_scale"`
			}
			if err := json.Unmarshal(f.Header, &header); err != nil {
				t.Fatal(err)
			}
			shape := f.Tensors["tdm_base"].Shape
			in := predictions{
				channels: shape[0], height: shape[1], width: shape[2], w: header.GuidanceScale,
				tdmBase: tensor("tdm_base"), tdmCond: tensor("tdm_cond"), sdmBase: tensor("sdm_base"), sdmCond: tensor("sdm_cond"),
			}
			out := in.fuse()
			checkSelection(t, in, out)

			tdm, sdm := in.guided()
			compare(t, "tdm_guided", tdm, tensor("tdm_guided"), 1e-6)
			compare(t, "sdm_guided", sdm, tensor("sdm_guided"), 1e-6)
			difference := tensor("log_saliency_difference")
			compare(t, "log_saliency_difference", out.difference, difference, nearTie)

			want, err := f.Uint8s("mask")
			if err != nil {
				t.Fatal(err)
			}
			fused := tensor("fused")
			decided := 0
			for p, choice := range out.mask {
				if choice != want[p] {
					if math.Abs(float64(difference[p])) > nearTie {
						t.Errorf("pixel %d: mask %d, want %d, log-saliencies differ by %v", p, choice, want[p], difference[p])
					}
					continue
				}
				decided++
				for k := p; k < len(fused); k += len(want) {
					if !(math.Abs(float64(out.noise[k]-fused[k])) <= 1e-6*max(1, math.Abs(float64(fused[k])))) {
						t.Errorf("element %d is %v, want %v", k, out.noise[k], fused[k])
					}
				}
			}
			// Where everything ties, everything goes to the TDM, on both sides.
			allTies := header.GuidanceScale == 0 || slices.Equal(in.tdmBase, in.sdmBase) && slices.Equal(in.tdmCond, in.sdmCond)
			if allTies && (out.sdmPixels != 0 || decided != len(want)) {
				t.Errorf("%d of %d tied pixels follow the SDM", out.sdmPixels, len(want))
			}
		})
	}
}

func compare(t *testing.T, name string, got, want []float32, tolerance float64) {
	t.Helper()
	for i := range want {
		if !(math.Abs(float64(got[i])-float64(want[i])) <= tolerance*max(1, math.Abs(float64(want[i])))) {
			t.Fatalf("%s[%d] = %v, want %v", name, i, got[i], want[i])
		}
	}
}

// logSaliency is the definition, step by step and in float64: absolute value, average pool,
// resize, mean, logarithm of the softmax.
func logSaliency(base, cond []float32, channels, height, width int, w float32) []float64 {
	h, v := height-1, width-1 // the pooled size
	mean := make([]float64, height*width)
	for c := range channels {
		response := func(y, x int) float64 {
			if y < 0 || x < 0 || y >= height || x >= width {
				return 0
			}
			k := (c*height+y)*width + x
			return math.Abs(float64(w) * (float64(cond[k]) - float64(base[k])))
		}
		pooled := make([]float64, h*v)
		for y := range h {
			for x := range v {
				for dy := -1; dy <= 2; dy++ {
					for dx := -1; dx <= 2; dx++ {
						pooled[y*v+x] += response(y+dy, x+dx) / 16
					}
				}
			}
		}
		for y := range height {
			y0, y1, fy := halfPixel(y, h, height)
			for x := range width {
				x0, x1, fx := halfPixel(x, v, width)
				upper := pooled[y0*v+x0]*(1-fx) + pooled[y0*v+x1]*fx
				lower := pooled[y1*v+x0]*(1-fx) + pooled[y1*v+x1]*fx
				mean[y*width+x] += (upper*(1-fy) + lower*fy) / float64(channels)
			}
		}
	}
	sum := 0.0
	for _, m := range mean {
		sum += math.Exp(m)
	}
	for p := range mean {
		mean[p] -= math.Log(sum)
	}
	return mean
}

// halfPixel is where output i of a resize from one size to another lies between inputs lo and hi.
// PyTorch computes positions in float32; in pictures of 64 pixels and more that is visible in the
// sixth digit of a saliency.
func halfPixel(i, from, to int) (lo, hi int, fraction float64) {
	position := max(0, float32(float32(from)/float32(to)*(float32(i)+0.5))-0.5)
	lo = int(position)
	return lo, min(lo+1, from-1), float64(position - float32(lo))
}

func randomPredictions(random *rand.Rand, channels, height, width int) predictions {
	values := func() []float32 {
		v := make([]float32, channels*height*width)
		for i := range v {
			v[i] = float32(random.NormFloat64())
		}
		return v
	}
	return predictions{
		channels: channels, height: height, width: width,
		tdmBase: values(), tdmCond: values(), sdmBase: values(), sdmCond: values(), w: float32(random.Float64()*15 - 3),
	}
}

func TestFuseFollowsTheDefinition(t *testing.T) {
	random := rand.New(rand.NewPCG(3407, 1))
	shapes := [][3]int{{4, 64, 64}, {4, 16, 16}, {4, 96, 64}, {1, 2, 2}, {3, 2, 9}, {5, 7, 3}, {16, 8, 8}}
	for _, shape := range shapes {
		for range 10 {
			in := randomPredictions(random, shape[0], shape[1], shape[2])
			checkAgainstDefinition(t, in)
		}
	}
}

func checkAgainstDefinition(t *testing.T, in predictions) {
	t.Helper()
	out := in.fuse()
	checkSelection(t, in, out)
	tdm := logSaliency(in.tdmBase, in.tdmCond, in.channels, in.height, in.width, in.w)
	sdm := logSaliency(in.sdmBase, in.sdmCond, in.channels, in.height, in.width, in.w)
	for p, choice := range out.mask {
		want := sdm[p] - tdm[p]
		if !(math.Abs(float64(out.difference[p])-want) <= nearTie) {
			t.Fatalf("%v: log-saliency difference of pixel %d is %v, want %v", []int{in.channels, in.height, in.width}, p, out.difference[p], want)
		}
		if math.Abs(want) > nearTie && (choice == 1) != (want > 0) {
			t.Fatalf("pixel %d follows model %d, log-saliencies differ by %v", p, choice, want)
		}
	}
}

// Equal models always tie, and a tie is plain guidance of the TDM.
func TestEqualModelsGivePlainGuidance(t *testing.T) {
	random := rand.New(rand.NewPCG(2, 2))
	for range 20 {
		in := randomPredictions(random, 4, 16, 16)
		in.sdmBase, in.sdmCond = in.tdmBase, in.tdmCond
		out := in.fuse()
		tdm, _ := in.guided()
		if out.sdmPixels != 0 || !slices.Equal(out.noise, tdm) {
			t.Fatal("equal models do not give plain guidance")
		}
	}
}

// A model whose saliency stands out in one place wins there and loses elsewhere: the softmax
// compares shapes, not sizes.
func TestSaliencyIsComparedByShape(t *testing.T) {
	const size = 16
	in := predictions{channels: 1, height: size, width: size, w: 5}
	in.tdmBase, in.sdmBase = make([]float32, size*size), make([]float32, size*size)
	in.tdmCond, in.sdmCond = make([]float32, size*size), make([]float32, size*size)
	for p := range in.tdmCond {
		in.tdmCond[p] = 3 // large, and everywhere the same
		if y, x := p/size, p%size; y >= 4 && y < 8 && x >= 4 && x < 8 {
			in.sdmCond[p] = 1
		}
	}
	out := in.fuse()
	checkSelection(t, in, out)
	if out.mask[5*size+5] != 1 || out.mask[12*size+12] != 0 {
		t.Errorf("inside the subject %d, outside %d; want 1 and 0", out.mask[5*size+5], out.mask[12*size+12])
	}
}

func TestFuseMayOverwriteAPrediction(t *testing.T) {
	in := randomPredictions(rand.New(rand.NewPCG(4, 4)), 4, 16, 16)
	want := in.fuse()
	for _, dst := range []*[]float32{&in.tdmBase, &in.tdmCond, &in.sdmBase, &in.sdmCond} {
		again := in
		for _, s := range []*[]float32{&again.tdmBase, &again.tdmCond, &again.sdmBase, &again.sdmCond} {
			*s = slices.Clone(*s)
		}
		target := map[*[]float32][]float32{
			&in.tdmBase: again.tdmBase, &in.tdmCond: again.tdmCond, &in.sdmBase: again.sdmBase, &in.sdmCond: again.sdmCond,
		}[dst]
		NewFuser(4, 16, 16).Fuse(target, make([]uint8, 256), again.tdmBase, again.tdmCond, again.sdmBase, again.sdmCond, again.w)
		if !slices.Equal(target, want.noise) {
			t.Error("fusion into one of its inputs differs")
		}
	}
}

// A Fuser carries nothing from one step into the next.
func TestFuserIsReusable(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 5))
	f := NewFuser(4, 16, 16)
	for range 5 {
		in := randomPredictions(random, 4, 16, 16)
		want := in.fuse()
		noise, mask := make([]float32, len(want.noise)), make([]uint8, len(want.mask))
		f.Fuse(noise, mask, in.tdmBase, in.tdmCond, in.sdmBase, in.sdmCond, in.w)
		if !slices.Equal(noise, want.noise) || !slices.Equal(mask, want.mask) {
			t.Fatal("a used Fuser fuses differently")
		}
	}
}

func TestExp(t *testing.T) {
	for x := float32(0); x > -120; x -= 1.0 / 512 {
		want := math.Exp(float64(x))
		tolerance := 1e-6 * want
		if x < -16 {
			tolerance = 1e-5*want + 1e-37 // below −86 it is 0
		}
		if got := float64(exp(x)); math.Abs(got-want) > tolerance {
			t.Fatalf("exp(%v) = %v, want %v", x, got, want)
		}
	}
}

func TestFuseAllocatesNothing(t *testing.T) {
	in := randomPredictions(rand.New(rand.NewPCG(6, 6)), 4, 64, 64)
	f := NewFuser(4, 64, 64)
	noise, mask, difference := make([]float32, 4*64*64), make([]uint8, 64*64), make([]float32, 64*64)
	if n := testing.AllocsPerRun(10, func() {
		f.Fuse(noise, mask, in.tdmBase, in.tdmCond, in.sdmBase, in.sdmCond, in.w)
		f.LogSaliencyDifference(difference)
		Guide(noise, in.tdmBase, in.tdmCond, in.w)
	}); n != 0 {
		t.Errorf("%v allocations a step, want none", n)
	}
}

func TestMisusePanics(t *testing.T) {
	f := NewFuser(1, 2, 2)
	three, four, mask := make([]float32, 3), make([]float32, 4), make([]uint8, 4)
	for name, call := range map[string]func(){
		"small picture":    func() { NewFuser(4, 1, 64) },
		"no channel":       func() { NewFuser(0, 64, 64) },
		"short dst":        func() { f.Fuse(three, mask, four, four, four, four, 5) },
		"short prediction": func() { f.Fuse(four, mask, four, four, four, three, 5) },
		"short mask":       func() { f.Fuse(four, mask[:3], four, four, four, four, 5) },
		"short difference": func() { f.LogSaliencyDifference(three) },
		"guidance":         func() { Guide(four, three, four, 5) },
	} {
		func() {
			defer func() {
				if message, ok := recover().(string); !ok || !strings.HasPrefix(message, "fusion: ") {
					t.Errorf("%s: recovered %q", name, message)
				}
			}()
			call()
			t.Errorf("%s: no panic", name)
		}()
	}
}

func FuzzFuse(f *testing.F) {
	f.Add(uint64(1), uint8(4), uint8(16), uint8(16), int16(5000))
	f.Add(uint64(2), uint8(1), uint8(2), uint8(2), int16(0))
	f.Add(uint64(3), uint8(3), uint8(9), uint8(33), int16(-1000))
	f.Fuzz(func(t *testing.T, seed uint64, channels, height, width uint8, thousandths int16) {
		in := randomPredictions(rand.New(rand.NewPCG(seed, 0)), 1+int(channels%8), 2+int(height%64), 2+int(width%64))
		in.w = float32(thousandths%20001) / 1000
		checkAgainstDefinition(t, in)
	})
}

// BenchmarkDefinition4x64x64 is the same decision taken as the definition says, pool and resize by
// pixel and channel, for comparison with BenchmarkStep4x64x64 in one run.
func BenchmarkDefinition4x64x64(b *testing.B) {
	in := randomPredictions(rand.New(rand.NewPCG(8, 8)), 4, 64, 64)
	for b.Loop() {
		logSaliency(in.tdmBase, in.tdmCond, in.channels, in.height, in.width, in.w)
		logSaliency(in.sdmBase, in.sdmCond, in.channels, in.height, in.width, in.w)
	}
}
