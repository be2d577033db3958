package fusion

import "fmt"

// Stage is one of the three parts of the denoising loop.
type Stage int

// The stages in the order in which a loop runs through them.
const (
	SceneConstruction  Stage = iota // the TDM alone draws the layout
	SubjectSceneFusion              // both models predict, each pixel follows one of them
	SubjectEnhancement              // the SDM alone refines the subjects
)

// String is the name used in logs, metrics and events.
func (s Stage) String() string {
	switch s {
	case SceneConstruction:
		return "scene_construction"
	case SubjectSceneFusion:
		return "subject_scene_fusion"
	case SubjectEnhancement:
		return "subject_enhancement"
	}
	return fmt.Sprintf("Stage(%d)", int(s))
}

// Plan divides a loop of Steps steps, indexed from 0, into stages. Both bounds are inclusive:
//
//	i ≤ StartMergeStep              scene construction
//	StartMergeStep < i ≤ FinalStep  subject-scene fusion
//	FinalStep < i                   subject enhancement
//
// −1 as StartMergeStep skips scene construction, −1 as both leaves enhancement only, and equal
// bounds skip fusion.
type Plan struct {
	Steps          int
	StartMergeStep int
	FinalStep      int
}

// Stage is the stage of step i, 0 ≤ i < Steps.
func (p Plan) Stage(i int) Stage {
	switch {
	case i <= p.StartMergeStep:
		return SceneConstruction
	case i <= p.FinalStep:
		return SubjectSceneFusion
	default:
		return SubjectEnhancement
	}
}

// Count is the number of steps that belong to stage s.
func (p Plan) Count(s Stage) int {
	switch s {
	case SceneConstruction:
		return p.StartMergeStep + 1
	case SubjectSceneFusion:
		return p.FinalStep - p.StartMergeStep
	case SubjectEnhancement:
		return p.Steps - 1 - p.FinalStep
	}
	return 0
}

// Validate checks p for a picture of the given number of subjects. With subjects the SDM must have
// at least one step, or the reference images would be ignored; without, it must have none. The
// error says which range was left.
func (p Plan) Validate(subjects int) error {
	last := p.Steps - 1
	switch {
	case p.Steps < 1:
		return fmt.Errorf("the number of steps must be at least 1, got %d", p.Steps)
	case p.StartMergeStep < -1 || p.StartMergeStep > last:
		return fmt.Errorf("start_merge_step must be between -1 and %d (the last of %d steps), got %d", last, p.Steps, p.StartMergeStep)
	case p.FinalStep < p.StartMergeStep || p.FinalStep > last:
		return fmt.Errorf("final_step must be between start_merge_step (%d) and %d (the last of %d steps), got %d", p.StartMergeStep, last, p.Steps, p.FinalStep)
	case subjects > 0 && p.StartMergeStep == last:
		return fmt.Errorf("start_merge_step %d leaves the subject model none of the %d steps: with subjects it must be between -1 and %d", p.StartMergeStep, p.Steps, last-1)
	case subjects == 0 && p.StartMergeStep != last:
		return fmt.Errorf("start_merge_step must be %d (every step is scene construction) when there are no subjects, got %d", last, p.StartMergeStep)
	}
	return nil
}
