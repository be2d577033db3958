package fusion_test

import (
	"strings"
	"testing"

	"github.com/facediffuser/facediffuser/fusion"
)

func TestPlanCounts(t *testing.T) {
	for _, c := range []struct {
		plan                      fusion.Plan
		scene, merge, enhancement int
	}{
		{fusion.Plan{Steps: 50, StartMergeStep: 15, FinalStep: 30}, 16, 15, 19}, // the released script
		{fusion.Plan{Steps: 50, StartMergeStep: -1, FinalStep: 30}, 0, 31, 19},
		{fusion.Plan{Steps: 50, StartMergeStep: -1, FinalStep: -1}, 0, 0, 50},
		{fusion.Plan{Steps: 50, StartMergeStep: 15, FinalStep: 15}, 16, 0, 34},
		{fusion.Plan{Steps: 50, StartMergeStep: 15, FinalStep: 49}, 16, 34, 0},
		{fusion.Plan{Steps: 50, StartMergeStep: 49, FinalStep: 49}, 50, 0, 0},
		{fusion.Plan{Steps: 1, StartMergeStep: -1, FinalStep: 0}, 0, 1, 0},
	} {
		for stage, want := range map[fusion.Stage]int{
			fusion.SceneConstruction: c.scene, fusion.SubjectSceneFusion: c.merge, fusion.SubjectEnhancement: c.enhancement,
		} {
			if got := c.plan.Count(stage); got != want {
				t.Errorf("%+v has %d steps of %v, want %d", c.plan, got, stage, want)
			}
		}
	}
}

// Every valid plan runs through the stages in order, and Count tells how often Stage names each.
func TestPlanStagesAreOrderedAndCounted(t *testing.T) {
	for steps := 1; steps <= 12; steps++ {
		for start := -1; start < steps; start++ {
			for final := start; final < steps; final++ {
				p := fusion.Plan{Steps: steps, StartMergeStep: start, FinalStep: final}
				counts := map[fusion.Stage]int{}
				previous := fusion.SceneConstruction
				for i := range steps {
					s := p.Stage(i)
					if s < previous {
						t.Fatalf("%+v: step %d is %v after %v", p, i, s, previous)
					}
					previous = s
					counts[s]++
				}
				for _, s := range []fusion.Stage{fusion.SceneConstruction, fusion.SubjectSceneFusion, fusion.SubjectEnhancement} {
					if counts[s] != p.Count(s) {
						t.Fatalf("%+v: %d steps of %v, Count says %d", p, counts[s], s, p.Count(s))
					}
				}
				withSDM := counts[fusion.SubjectSceneFusion]+counts[fusion.SubjectEnhancement] > 0
				if err := p.Validate(1); (err == nil) != withSDM {
					t.Fatalf("%+v with a subject: %v", p, err)
				}
				if err := p.Validate(0); (err == nil) != !withSDM {
					t.Fatalf("%+v without subjects: %v", p, err)
				}
			}
		}
	}
}

func TestPlanErrorsNameTheRange(t *testing.T) {
	for _, c := range []struct {
		plan     fusion.Plan
		subjects int
		want     string
	}{
		{fusion.Plan{Steps: 0}, 1, "number of steps must be at least 1, got 0"},
		{fusion.Plan{Steps: 50, StartMergeStep: -2, FinalStep: 30}, 1, "start_merge_step must be between -1 and 49 (the last of 50 steps), got -2"},
		{fusion.Plan{Steps: 50, StartMergeStep: 50, FinalStep: 50}, 1, "start_merge_step must be between -1 and 49 (the last of 50 steps), got 50"},
		{fusion.Plan{Steps: 50, StartMergeStep: 15, FinalStep: 14}, 1, "final_step must be between start_merge_step (15) and 49 (the last of 50 steps), got 14"},
		{fusion.Plan{Steps: 50, StartMergeStep: 15, FinalStep: 50}, 1, "final_step must be between start_merge_step (15) and 49 (the last of 50 steps), got 50"},
		{fusion.Plan{Steps: 50, StartMergeStep: 49, FinalStep: 49}, 2, "start_merge_step 49 leaves the subject model none of the 50 steps: with subjects it must be between -1 and 48"},
		{fusion.Plan{Steps: 50, StartMergeStep: 15, FinalStep: 30}, 0, "start_merge_step must be 49"},
	} {
		if err := c.plan.Validate(c.subjects); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v with %d subjects: %v, want %q", c.plan, c.subjects, err, c.want)
		}
	}
}

func TestStageNames(t *testing.T) {
	for stage, want := range map[fusion.Stage]string{
		fusion.SceneConstruction: "scene_construction", fusion.SubjectSceneFusion: "subject_scene_fusion",
		fusion.SubjectEnhancement: "subject_enhancement", fusion.Stage(7): "Stage(7)",
	} {
		if got := stage.String(); got != want {
			t.Errorf("%d is called %q, want %q", int(stage), got, want)
		}
	}
}
