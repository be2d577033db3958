package family

import (
	"encoding/json"
	"strings"
	"testing"
)

// valid is a family description as the toolkit's export writes it.
const valid = `{
  "name": "mini", "aliases": ["facediffuser-mini"], "description": "d", "license": "l", "created": 1764000000,
  "schedule": {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1,
    "set_alpha_to_one": false, "clip_sample": false, "timestep_spacing": "leading", "prediction_type": "epsilon"},
  "scaling_factor": 0.9, "object_resolution": 128,
  "defaults": {"scheduler": "pndm", "num_inference_steps": 50, "guidance_scale": 5, "start_merge_fraction": 0.3, "final_fraction": 0.6, "eta": 0},
  "limits": {"max_inference_steps": 200, "min_guidance_scale": 0, "max_guidance_scale": 20},
  "quality": {"low": {"scheduler": "dpmpp_2m", "num_inference_steps": 20}, "medium": {"num_inference_steps": 30}, "high": {"num_inference_steps": 50}},
  "input_fidelity": {"low": {"start_merge_fraction": 0.4, "final_fraction": 0.8}, "high": {"start_merge_fraction": 0.1, "final_fraction": 0.4}},
  "preview_matrix": [[0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]], "preview_bias": [0, 0, 0],
  "person_nouns": ["woman", "man"],
  "weights_sha256": "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
}`

func TestReadsWhatItSays(t *testing.T) {
	f, err := read(strings.NewReader(valid))
	if err != nil {
		t.Fatal(err)
	}
	if f.Name != "mini" || f.Defaults.Steps != 50 || f.Defaults.Final != 0.6 || f.InputFidelity["high"].StartMerge != 0.1 || f.Schedule.BetaEnd != 0.012 {
		t.Errorf("read %+v", f)
	}
	if low, high := f.Quality["low"], f.Quality["high"]; low != (Preset{"dpmpp_2m", 20}) || high != (Preset{"pndm", 50}) {
		t.Errorf("quality low is %+v and high %+v, want dpmpp_2m and the default, pndm", low, high)
	}
	for model, want := range map[string]bool{"mini": true, "facediffuser-mini": true, "sd15": false, "": false} {
		if f.Answers(model) != want {
			t.Errorf("Answers(%q) = %v", model, !want)
		}
	}
}

func TestOnlyAFamilyThatSaysSoHasASafetyChecker(t *testing.T) {
	for text, want := range map[string]bool{valid: false, strings.Replace(valid, "{", `{"safety_checker": true,`, 1): true} {
		if f, err := read(strings.NewReader(text)); err != nil || f.SafetyChecker != want {
			t.Errorf("read %+v, %v, want a safety checker: %v", f, err, want)
		}
	}
}

func TestStageBoundsOfTheReleasedScript(t *testing.T) {
	b := StageBounds{StartMerge: 0.3, Final: 0.6}
	for _, c := range []struct{ n, iterations, start, final int }{
		{50, 51, 15, 30}, // the released script's values: PNDM
		{50, 50, 15, 30},
		{5, 5, 2, 3},   // 1.5 rounds to even
		{15, 15, 4, 9}, // 4.5 rounds to even
		{1, 1, 0, 0},   // round(0.6) is past the last iteration
	} {
		if start, final := b.Steps(c.n, c.iterations); start != c.start || final != c.final {
			t.Errorf("%d steps: %d and %d, want %d and %d", c.n, start, final, c.start, c.final)
		}
	}
	if _, final := (StageBounds{StartMerge: 0.3, Final: 1}).Steps(50, 51); final != 50 {
		t.Errorf("all of 51 iterations end with %d, want 50", final)
	}
}

func TestNamesEveryFault(t *testing.T) {
	for name, c := range map[string]struct {
		path  string // of the value to change, dotted
		value any
		want  string
	}{
		"no name":           {"name", "", "name is missing"},
		"unknown key":       {"scalingfactor", 1, `unknown field "scalingfactor"`},
		"wrong type":        {"scaling_factor", "big", "scaling_factor"},
		"scaling":           {"scaling_factor", -1, "scaling_factor is -1, want a positive number"},
		"object resolution": {"object_resolution", 0, "object_resolution is 0, want 16 to 4096"},
		"schedule":          {"schedule.beta_schedule", "cosine", "schedule: "},
		"clip":              {"schedule.clip_sample", true, "schedule: "},
		"steps":             {"limits.max_inference_steps", 1000, "limits.max_inference_steps"},
		"default steps":     {"defaults.num_inference_steps", 500, "defaults.num_inference_steps is 500, want 1 to 200"},
		"guidance":          {"defaults.guidance_scale", 21, "defaults.guidance_scale is 21, want 0 to 20"},
		"bounds":            {"defaults.start_merge_fraction", 0.7, "defaults: want 0 ≤ start_merge_fraction ≤ final_fraction ≤ 1, got 0.7 and 0.6"},
		"scheduler":         {"defaults.scheduler", "plms", `defaults.scheduler is "plms", want one of ddim, pndm, dpmpp_2m`},
		"eta":               {"defaults.eta", 0.5, "defaults.eta is 0.5, want 0: only the scheduler ddim adds noise"},
		"preset":            {"quality.low", map[string]any{"num_inference_steps": 0}, "quality.low.num_inference_steps is 0, want 1 to 200"},
		"preset scheduler":  {"quality.low.scheduler", "euler", `quality.low.scheduler is "euler", want one of`},
		"preset of steps":   {"quality.low", 20, "quality"},
		"fidelity":          {"input_fidelity.low.final_fraction", 2, "input_fidelity.low"},
		"preview":           {"preview_matrix", [][]float64{{1}}, "preview_matrix is not 4 rows"},
		"nouns":             {"person_nouns", []string{}, "person_nouns is empty"},
		"hash":              {"weights_sha256", "abc", `weights_sha256 is "abc", want 64`},
	} {
		t.Run(name, func(t *testing.T) {
			var document map[string]any
			if err := json.Unmarshal([]byte(valid), &document); err != nil {
				t.Fatal(err)
			}
			keys := strings.Split(c.path, ".")
			at := document
			for _, key := range keys[:len(keys)-1] {
				at = at[key].(map[string]any)
			}
			at[keys[len(keys)-1]] = c.value
			changed, err := json.Marshal(document)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := read(strings.NewReader(string(changed))); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestAllFaultsAtOnce(t *testing.T) {
	_, err := read(strings.NewReader(`{}`))
	if err == nil {
		t.Fatal("an empty description is accepted")
	}
	for _, want := range []string{"name", "schedule", "scaling_factor", "quality.high", "person_nouns", "weights_sha256"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\ndoes not name %s", err, want)
		}
	}
}
