package doctor

import (
	"cmp"
	"maps"
	"slices"

	"github.com/facediffuser/facediffuser/fusion"
	"github.com/facediffuser/facediffuser/gateway/internal/family"
	"github.com/facediffuser/facediffuser/sampler"
)

// Prediction is what one preset of quality costs.
type Prediction struct {
	Quality   string `json:"quality"` // "auto" is the family's default
	Scheduler string `json:"scheduler"`
	Steps     int    `json:"num_inference_steps"`
	// The iterations of each stage, as a picture with subjects has them by default.
	Scene       int `json:"scene_construction"`
	Fusion      int `json:"subject_scene_fusion"`
	Enhancement int `json:"subject_enhancement"`

	Seconds float64 `json:"seconds_per_picture"` // alone on the replica
	PerHour float64 `json:"pictures_per_hour"`   // with every slot taken
}

// Fleet is what the measured replicas do together. Its seconds are those of the slowest.
type Fleet struct {
	// MaxRunning pictures at once, over all gateways, keep the replicas busy.
	MaxRunning int          `json:"max_running"`
	Predicted  []Prediction `json:"predicted"`
}

// presets are the family's default and then its qualities, the fewest steps first.
func presets(f *family.Family) []Prediction {
	all := []Prediction{{Quality: "auto", Scheduler: f.Defaults.Scheduler, Steps: f.Defaults.Steps}}
	bySteps := func(a, b string) int { return cmp.Compare(f.Quality[a].Steps, f.Quality[b].Steps) }
	for _, name := range slices.SortedFunc(maps.Keys(f.Quality), bySteps) {
		all = append(all, Prediction{Quality: name, Scheduler: f.Quality[name].Scheduler, Steps: f.Quality[name].Steps})
	}
	for i := range all {
		p := &all[i]
		iterations := sampler.Iterations(p.Scheduler, p.Steps)
		start, final := f.Defaults.StageBounds.Steps(p.Steps, iterations)
		plan := fusion.Plan{Steps: iterations, StartMergeStep: start, FinalStep: final}
		p.Scene, p.Fusion, p.Enhancement = plan.Count(fusion.SceneConstruction), plan.Count(fusion.SubjectSceneFusion), plan.Count(fusion.SubjectEnhancement)
	}
	return all
}

// predict says what pictures with one subject cost on a replica with these times. The
// gateway's own share, some tenths of a millisecond a step, is left out.
//
//	t_T, t_S, t_B   seconds of a pair of rows in the TDM, in the SDM, in both at once
//	r_T, r_S        seconds a row in the fullest execution that the replica makes
//	o               how much of the shorter of two calls is hidden behind the longer:
//	                0 on one device, 1 on two
//
// Alone, a picture takes two text encodings, image encoder, fuser, decoder and, where it is
// checked, safety checker, and its iterations: scene·t_T + fusion·t_B + enhancement·t_S. With every slot taken the two
// UNets always have work, W_T = 2 r_T (scene + fusion) and W_S = 2 r_S (fusion +
// enhancement) a picture, of which o·min(W_T, W_S) runs at the same time.
func predict(f *family.Family, m *Measured) []Prediction {
	all := presets(f)
	once := 2*m.TextEncoder + m.ImageEncoder + m.SubjectFuser + m.VAEDecoder + m.SafetyChecker
	tT, tS, tB := pair(m.TDM), pair(m.SDM), m.Both
	o := min(max((tT+tS-tB)/min(tT, tS), 0), 1)
	for i := range all {
		p := &all[i]
		scene, fusion, enhancement := float64(p.Scene), float64(p.Fusion), float64(p.Enhancement)
		p.Seconds = once + scene*tT + fusion*tB + enhancement*tS
		wT, wS := 2*perRow(m.TDM)*(scene+fusion), 2*perRow(m.SDM)*(fusion+enhancement)
		p.PerHour = 3600 / (once + wT + wS - o*min(wT, wS))
	}
	return all
}

// pair is the time of the two rows of a step.
func pair(batches []Batch) float64 {
	return batches[slices.IndexFunc(batches, func(b Batch) bool { return b.Rows == 2 && b.AtOnce == 1 })].Seconds
}

// perRow is the best time a row of the batches that steps can come in.
func perRow(batches []Batch) float64 {
	best := pair(batches) / 2
	for _, b := range batches {
		if b.Rows > 1 {
			best = min(best, b.Seconds/float64(b.Rows*b.AtOnce))
		}
	}
	return best
}

// fleet adds the measured replicas up; nil if there is none.
func fleet(replicas []Replica) *Fleet {
	var f *Fleet
	for _, r := range replicas {
		if r.Measured == nil {
			continue
		}
		if f == nil {
			f = &Fleet{Predicted: slices.Clone(r.Predicted), MaxRunning: r.Measured.slots}
			continue
		}
		f.MaxRunning += r.Measured.slots
		for i, p := range r.Predicted {
			f.Predicted[i].Seconds = max(f.Predicted[i].Seconds, p.Seconds)
			f.Predicted[i].PerHour += p.PerHour
		}
	}
	return f
}
