package doctor

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/facediffuser/facediffuser/gateway/internal/networks"
)

// TestText is what a person reads: a replica that fits but for the vae_decoder, and one that is down.
func TestText(t *testing.T) {
	r := &Report{Fits: true, Family: &Family{Directory: "/srv/models/sd15", Name: "sd15", Weights: strings.Repeat("5", 64)}}
	up := Replica{Address: "gpu-0:8001", Ready: true, Triton: "2.71.0", RoundTrip: 0.000214,
		Sizes:    &Sizes{Tokens: 77, Width: 768, Subjects: 4, Reference: 224, Latents: [3]int{4, 64, 64}, Picture: [2]int{512, 512}},
		Measured: measured(), Predicted: predict(tenSteps, measured())}
	for _, name := range networks.Models[:5] {
		up.Models = append(up.Models, Model{Name: name, Versions: []string{"1"}, Backend: "tensorrt", MaxBatchSize: 16, DynamicBatching: name != "text_encoder",
			Floats: "FP16", Instances: "1 on GPU 0"})
	}
	r.Replicas = []Replica{up, {Address: "gpu-1:8001"}}
	r.Fleet = fleet(r.Replicas)
	r.Add("gpu-0:8001", networks.Fault{Code: networks.ModelMissing, Model: "vae_decoder", Found: "no such model", Want: "one that is loaded", Remedy: "put it there"})
	r.Add("gpu-1:8001", networks.Fault{Code: Unreachable, Found: "connection refused", Want: "a Triton server", Remedy: "start it"})
	r.Add("", networks.Fault{Code: networks.WrongWeights, Warning: true, What: "models/", Found: "a", Want: "b", Remedy: "export both together"})
	const want = `Family sd15 in /srv/models/sd15, weights 555555555555

Replica gpu-0:8001: Triton 2.71.0, ready, round trip 0.21 ms
  77 tokens of width 768, 4 subjects, references 224×224, latents 4×64×64, pictures 512×512

           model          version  backend   floats  max batch  batching  instances
  ok       text_encoder   1        tensorrt  FP16    16         none      1 on GPU 0
  ok       image_encoder  1        tensorrt  FP16    16         dynamic   1 on GPU 0
  ok       subject_fuser  1        tensorrt  FP16    16         dynamic   1 on GPU 0
  ok       unet_tdm       1        tensorrt  FP16    16         dynamic   1 on GPU 0
  ok       unet_sdm       1        tensorrt  FP16    16         dynamic   1 on GPU 0
  1 fault  vae_decoder    -        -         -       -          -         -

  one call of         1 row   2 rows  2 × 4 rows  8 rows
  unet_tdm            2.0 ms  10 ms   32 ms       -
  unet_sdm            15 ms   20 ms   -           90 ms
  both UNets at once  -       25 ms   -           -
  text_encoder        10 ms
  image_encoder       20 ms
  subject_fuser       5.0 ms
  vae_decoder         55 ms

  quality  scheduler  steps  scene + fusion + subject  a picture  pictures an hour
  auto     ddim       10     4 + 3 + 3                 0.28 s     14516
  low      dpmpp_2m   5      3 + 1 + 1                 0.17 s     23077
  medium   ddim       10     4 + 3 + 3                 0.28 s     14516
  high     pndm       20     7 + 6 + 8                 0.48 s     8333

Replica gpu-1:8001: does not answer

All replicas together, with ` + "`serve --max-running 4`" + `

  quality  scheduler  steps  scene + fusion + subject  a picture  pictures an hour
  auto     ddim       10     4 + 3 + 3                 0.28 s     14516
  low      dpmpp_2m   5      3 + 1 + 1                 0.17 s     23077
  medium   ddim       10     4 + 3 + 3                 0.28 s     14516
  high     pndm       20     7 + 6 + 8                 0.48 s     8333

A picture: one subject, on an idle replica. Pictures an hour: at best, with as many at once as fill an execution.

FAULT [model_missing] gpu-0:8001 vae_decoder: found no such model, want one that is loaded. Put it there.
FAULT [unreachable] gpu-1:8001: found connection refused, want a Triton server. Start it.
warning [weights] models/: found a, want b. Export both together.
2 faults, 1 warning: docs/troubleshooting.md explains each by its name in brackets.
`
	var b strings.Builder
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
	if r.Fits || r.Faults() != 2 {
		t.Errorf("fits %v, %d faults", r.Fits, r.Faults())
	}
}

func TestVerdict(t *testing.T) {
	verdict := func(r *Report) string {
		var b strings.Builder
		if err := r.WriteText(&b); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(b.String()), "\n")
		return lines[len(lines)-1]
	}
	r := &Report{Fits: true}
	if got := verdict(r); got != "Everything fits." {
		t.Errorf("nothing found: %q", got)
	}
	r.Add("", networks.Fault{Warning: true})
	if got := verdict(r); got != "Everything fits; 1 warning." || !r.Fits {
		t.Errorf("a warning: %q", got)
	}
}
