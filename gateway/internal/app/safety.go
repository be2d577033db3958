package app

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/facediffuser/facediffuser/gateway/internal/config"
	"github.com/facediffuser/facediffuser/gateway/internal/family"
	"github.com/facediffuser/facediffuser/gateway/internal/networks"
	"github.com/facediffuser/facediffuser/gateway/internal/pipeline"
)

// safetyOf settles what auto is for a family. It does not ask what Triton serves just now: a model that failed to load would end the
// checks without a word.
func safetyOf(settings *config.Config, f *family.Family) pipeline.Safety {
	switch {
	case settings.Safety != "auto":
		return pipeline.Safety(settings.Safety)
	case f.SafetyChecker:
		return pipeline.SafetyRefuse
	}
	return pipeline.SafetyOff
}

// checkSafety finds out beforehand that a local Triton will lack the safety checker that is wanted; of servers elsewhere, readiness tells.
func checkSafety(settings *config.Config, f *family.Family) error {
	safety := safetyOf(settings, f)
	if safety == pipeline.SafetyOff || len(settings.Triton) > 0 {
		return nil
	}
	model := filepath.Join(f.ModelsDir(), networks.SafetyChecker)
	if _, err := os.Stat(model); err != nil {
		return fmt.Errorf("safety: pictures are to be checked (%s), but the family has no model for it: %w; export one, or leave pictures unchecked by --safety off", safety, err)
	}
	return nil
}
