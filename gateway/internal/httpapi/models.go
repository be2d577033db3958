package httpapi

import (
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/facediffuser/facediffuser/gateway/internal/family"
	"github.com/facediffuser/facediffuser/gateway/internal/parameters"
	"github.com/facediffuser/facediffuser/gateway/internal/pipeline"
	"github.com/facediffuser/facediffuser/sampler"
)

// Model is a family as the OpenAI API lists it.
type Model struct {
	ID      string   `json:"id"`
	Object  string   `json:"object"` // "model"
	Created int64    `json:"created"`
	OwnedBy string   `json:"owned_by"`
	Aliases []string `json:"aliases"` // its other names, each an entry of its own in a list
	// Vocabulary is absent for a family that takes any sentence.
	Vocabulary family.Vocabulary `json:"vocabulary,omitempty"`
}

// ModelList is the answer of GET /v1/models.
type ModelList struct {
	Object string  `json:"object"` // "list"
	Data   []Model `json:"data"`
}

// modelOf is the family under one of its names.
func modelOf(f *family.Family, name string) Model {
	others := slices.DeleteFunc(names(f), func(other string) bool { return other == name })
	return Model{ID: name, Object: "model", Created: f.Created, OwnedBy: "facediffuser", Aliases: others, Vocabulary: f.Vocabulary}
}

// names are all that the family answers to, its own first.
func names(f *family.Family) []string { return append([]string{f.Name}, f.Aliases...) }

func unknownModel(name string, f *family.Family) *fault {
	return &fault{kind: modelNotFound, param: "model", message: fmt.Sprintf("model %q does not exist; this gateway serves %q", name, f.Name)}
}

func (s *server) listModels(c *gin.Context) {
	f := s.Pipeline.Family()
	list := ModelList{Object: "list"}
	// An alias has an entry of its own: programs look for a name that they know.
	for _, name := range names(f) {
		list.Data = append(list.Data, modelOf(f, name))
	}
	s.answer(c, http.StatusOK, list)
}

func (s *server) getModel(c *gin.Context) {
	f := s.Pipeline.Family()
	id := strings.TrimPrefix(c.Param("id"), "/")
	if id == "" {
		s.noRoute(c)
		return
	}
	if !f.Answers(id) {
		s.fail(c, unknownModel(id, f))
		return
	}
	s.answer(c, http.StatusOK, modelOf(f, id))
}

// Capabilities tell a client what it may ask for.
type Capabilities struct {
	Version  string               `json:"version"`
	Families []FamilyCapabilities `json:"families"`
	Limits   ServerLimits         `json:"limits"`
	Safety   pipeline.Safety      `json:"safety"` // what becomes of unsafe pictures
	Flags    map[string]bool      `json:"flags"`
}

// FamilyCapabilities are those of one model family.
type FamilyCapabilities struct {
	Name        string   `json:"name"`
	Aliases     []string `json:"aliases"`
	Description string   `json:"description"`
	License     string   `json:"license"`
	Weights     string   `json:"weights"` // sha256
	// Sizes and MaxSubjects come from the networks: null while they cannot be reached.
	Sizes         []string                      `json:"sizes"`
	MaxSubjects   *int                          `json:"max_subjects"`
	Schedulers    []string                      `json:"schedulers"`
	Defaults      CapabilityDefaults            `json:"defaults"`
	Limits        family.Limits                 `json:"limits"`
	Quality       map[string]family.Preset      `json:"quality"`
	InputFidelity map[string]family.StageBounds `json:"input_fidelity"` // stage bounds as fractions of the steps
	Parameters    []ParameterCapability         `json:"parameters"`
}

// ParameterCapability describes one field of a request, with the family's
// bounds and default.
type ParameterCapability struct {
	Name        string          `json:"name"`
	Type        parameters.Type `json:"type"` // as in JSON Schema
	Endpoints   []string        `json:"endpoints"`
	Required    bool            `json:"required,omitempty"`
	Enum        []string        `json:"enum,omitempty"`
	Pattern     string          `json:"pattern,omitempty"`
	Minimum     *float64        `json:"minimum,omitempty"`
	Maximum     *float64        `json:"maximum,omitempty"`
	Default     any             `json:"default,omitempty"`
	Description string          `json:"description"`
}

func parameterCapabilities(fields parameters.Set) []ParameterCapability {
	all := make([]ParameterCapability, len(fields))
	for i, p := range fields {
		all[i] = ParameterCapability{
			Name: p.Name, Type: p.Type, Required: p.Required, Enum: p.Words, Default: p.Default, Description: p.Help,
		}
		if p.Pattern != nil {
			all[i].Pattern = p.Pattern.String()
		}
		for _, on := range []endpoint{edits, generations} {
			if on.has(p) {
				all[i].Endpoints = append(all[i].Endpoints, on.path())
			}
		}
		if low := p.Low; p.Ranged() && !math.IsInf(low, 0) {
			all[i].Minimum = &low
		}
		if high := p.High; p.Ranged() && !math.IsInf(high, 0) {
			all[i].Maximum = &high
		}
	}
	return all
}

// CapabilityDefaults are the settings of a request that names none.
type CapabilityDefaults struct {
	family.Defaults
	StartMergeStep int `json:"start_merge_step"` // at the default number of steps
	FinalStep      int `json:"final_step"`
}

// ServerLimits are the same for every family.
type ServerLimits struct {
	MaxPictures      int   `json:"max_n"`
	MaxPartialImages int   `json:"max_partial_images"`
	MaxImageBytes    int64 `json:"max_image_bytes"`
	MaxImagePixels   int64 `json:"max_image_pixels"`
	MaxRunning       int   `json:"max_running"` // pictures at once
	MaxQueue         int   `json:"max_queue"`   // pictures that may wait
}

func (s *server) capabilities(c *gin.Context) {
	f := s.Pipeline.Family()
	answer := FamilyCapabilities{
		Name: f.Name, Aliases: append([]string{}, f.Aliases...), Description: f.Description, License: f.License,
		Weights: f.WeightsSHA256, Schedulers: sampler.Schedulers(), Limits: f.Limits, Quality: f.Quality, InputFidelity: f.InputFidelity,
		Defaults: CapabilityDefaults{Defaults: f.Defaults}, Parameters: parameterCapabilities(s.fields),
	}
	answer.Defaults.StartMergeStep, answer.Defaults.FinalStep = f.Defaults.StageBounds.Steps(f.Defaults.Steps, sampler.Iterations(f.Defaults.Scheduler, f.Defaults.Steps))
	if dims, err := s.Pipeline.Dimensions(c.Request.Context()); err == nil {
		answer.Sizes, answer.MaxSubjects = sizes(dims), &dims.Subjects
	}
	s.answer(c, http.StatusOK, Capabilities{
		Version: s.Version, Families: []FamilyCapabilities{answer},
		Limits: ServerLimits{
			MaxPictures: parameters.MaxPictures, MaxPartialImages: parameters.MaxPreviews,
			MaxImageBytes: s.Intake.Limits().MaxFileBytes, MaxImagePixels: s.Limits.MaxImagePixels,
			MaxRunning: s.Pipeline.Capacity(), MaxQueue: s.Limits.MaxQueue,
		},
		Safety: s.Pipeline.Safety(),
		Flags: map[string]bool{
			"embed_parameters": s.EmbedParameters, "embed_xmp": s.EmbedXMP, "streaming": true, "idempotency_key": true,
			"response_format_url": false, "remote_image_urls": false, "safety_checker": s.Pipeline.Safety() != pipeline.SafetyOff,
		},
	})
}

func sizes(d pipeline.Dimensions) []string { return []string{fmt.Sprintf("%dx%d", d.Width, d.Height)} }
