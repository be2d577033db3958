package httpapi

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/facediffuser/facediffuser/gateway/internal/job"
	"github.com/facediffuser/facediffuser/gateway/internal/picture"
	"github.com/facediffuser/facediffuser/gateway/internal/pipeline"
	"github.com/facediffuser/facediffuser/gateway/internal/tokenizer"
)

// ImagesResponse is the answer to a request for pictures.
type ImagesResponse struct {
	Created          int64   `json:"created"` // Unix time
	Data             []Image `json:"data"`
	Background       string  `json:"background"`
	OutputFormat     string  `json:"output_format"`
	Quality          string  `json:"quality"`
	Size             string  `json:"size"`
	Usage            Usage   `json:"usage"`
	SafetyIdentifier string  `json:"safety_identifier,omitempty"`
	FaceDiffuser     Details `json:"facediffuser"`
}

// Image is one picture of an answer.
type Image struct {
	B64JSON string `json:"b64_json"`
	// RevisedPrompt is the prompt that was used, under OpenAI's name for it.
	RevisedPrompt string `json:"revised_prompt"`
	Seed          uint32 `json:"seed"`
	// NSFW is what the safety checker says; absent where pictures are not checked.
	NSFW *bool `json:"nsfw,omitempty"`
	// FusionMap is a grey PNG: how often the subject model won each pixel
	// during subject-scene fusion, black never, white always.
	FusionMap string `json:"fusion_map,omitempty"`
}

// Usage counts what OpenAI's clients expect to be counted, in the units of
// this method: the text encoder reads all its tokens whatever the prompt's
// length, a subject is one embedding, and a picture is the pixels of its latent.
type Usage struct {
	InputTokens        int          `json:"input_tokens"`
	OutputTokens       int          `json:"output_tokens"`
	TotalTokens        int          `json:"total_tokens"`
	InputTokensDetails InputDetails `json:"input_tokens_details"`
}

// InputDetails divides the input tokens.
type InputDetails struct {
	TextTokens  int `json:"text_tokens"`
	ImageTokens int `json:"image_tokens"`
}

// Details are what an answer says beyond OpenAI's API.
type Details struct {
	JobID      string              `json:"job_id"`
	PromptUsed string              `json:"prompt_used"` // with the markers where they were placed
	Warnings   []pipeline.Warning  `json:"warnings"`
	Parameters pipeline.Parameters `json:"parameters"` // reproduce the first picture
	Images     []ImageDetails      `json:"images"`
}

// ImageDetails tell how one picture came about.
type ImageDetails struct {
	Seed    uint32        `json:"seed"`
	Fusion  FusionDetails `json:"fusion"`
	Timings Timings       `json:"timings"`
}

// FusionDetails have an entry for every step of subject-scene fusion.
type FusionDetails struct {
	Steps    []int     `json:"steps"`     // indices in the loop
	SDMShare []float64 `json:"sdm_share"` // share of the latent's pixels that the subject model won, 0 … 1
}

// Timings are a picture's wall time in seconds and two parts of it.
type Timings struct {
	Total    float64 `json:"total_seconds"`
	Queued   float64 `json:"queued_seconds"`
	Networks float64 `json:"networks_seconds"`
}

// session is one request for pictures on its way to an answer.
type session struct {
	*input
	on      endpoint
	request *pipeline.Request
	dims    pipeline.Dimensions
	job     *job.Job
}

// images handles both endpoints: read, prepare, submit, answer.
func (s *server) images(on endpoint) gin.HandlerFunc {
	return func(c *gin.Context) {
		ctx := c.Request.Context()
		if limit := s.Limits.RequestTimeout; limit > 0 {
			var stop context.CancelFunc
			ctx, stop = context.WithTimeoutCause(ctx, limit, job.ErrExpired)
			defer stop()
			c.Request = c.Request.WithContext(ctx)
		}
		in, subjects, err := s.readInput(c, on)
		if err != nil {
			s.fail(c, err)
			return
		}
		s.awaitPictures(c)
		r := &session{input: in, on: on}
		if err := s.prepare(ctx, r, subjects); err != nil {
			s.fail(c, err)
			return
		}
		n := notesOf(c)
		n.model, n.n, n.steps, n.subjects, n.stream = r.model, r.request.N, r.request.Steps, len(subjects), r.stream

		release, err := s.submit(c, r)
		if err != nil {
			s.fail(c, err)
			return
		}
		defer release()
		tellAllowances(c, principalOf(c))
		n.job = r.job.ID
		c.Header(JobIDHeader, r.job.ID)
		if err := r.describe(c.Writer.Header()); err != nil {
			s.fail(c, err)
			return
		}

		if r.stream {
			s.stream(c, r)
			return
		}
		results, err := r.job.Wait(ctx)
		if err != nil {
			s.fail(c, err)
			return
		}
		answer, err := s.response(r, results)
		if err != nil {
			s.fail(c, err)
			return
		}
		s.answer(c, 200, answer)
	}
}

// awaitPictures lifts the deadlines of a request that has come and is answered
// in minutes: its job has a time of its own, and each write has one.
func (s *server) awaitPictures(c *gin.Context) {
	enterPhase(c.Request.Context(), answering)
	control := http.NewResponseController(c.Writer)
	_ = control.SetReadDeadline(time.Time{})
	_ = control.SetWriteDeadline(time.Time{})
}

// prepare lets the pipeline check the request.
func (s *server) prepare(ctx context.Context, r *session, subjects []*picture.Reference) (err error) {
	f := s.Pipeline.Family()
	if r.model == "" {
		r.model = f.Name
	}
	if !f.Answers(r.model) {
		return unknownModel(r.model, f)
	}
	if r.on == edits && len(subjects) == 0 {
		return &fault{kind: invalidValue, code: "missing_required_parameter", param: "image",
			message: `image is missing: send one reference image for each subject (in JSON as images: [{"image_url": "data:image/png;base64,…"}]), or use ` + generations.path()}
	}
	r.request, err = s.Pipeline.Prepare(ctx, r.params, subjects)
	if refused := (*pipeline.InputError)(nil); r.on == generations && errors.As(err, &refused) && refused.Param == "prompt" && strings.Contains(r.params.Prompt, tokenizer.Marker) {
		return &fault{kind: invalidValue, code: refused.Code, param: refused.Param, message: refused.Message + "; images are sent to " + edits.path()}
	}
	if err != nil {
		return err
	}
	r.dims, err = s.Pipeline.Dimensions(ctx)
	return err
}

// encode writes a picture in the format that the request asks for. parameters
// are nil for a picture that they would not reproduce.
func (s *server) encode(r *session, p *picture.Picture, parameters *pipeline.Parameters) (string, error) {
	e := picture.Encoding{Format: r.format, Compression: r.compression, EmbedXMP: s.EmbedXMP}
	if parameters != nil && s.EmbedParameters {
		e.Parameters, e.EmbedParameters = bytes.TrimSpace(marshal(parameters)), true
	}
	var out bytes.Buffer
	if err := picture.Encode(&out, p, e); err != nil {
		return "", fmt.Errorf("httpapi: encode %s: %w", r.format, err)
	}
	return base64.StdEncoding.EncodeToString(out.Bytes()), nil
}

func (s *server) image(r *session, result *pipeline.Result) (image Image, err error) {
	image.RevisedPrompt, image.Seed, image.NSFW = r.request.PromptUsed, result.Seed, result.NSFW
	if image.B64JSON, err = s.encode(r, result.Picture, &result.Parameters); err != nil {
		return image, err
	}
	if result.FusionMap != nil {
		var out bytes.Buffer
		if err := picture.Encode(&out, result.FusionMap, picture.Encoding{Format: "png", EmbedXMP: s.EmbedXMP}); err != nil {
			return image, fmt.Errorf("httpapi: encode the fusion map: %w", err)
		}
		image.FusionMap = base64.StdEncoding.EncodeToString(out.Bytes())
	}
	return image, nil
}

func (s *server) response(r *session, results []pipeline.Result) (*ImagesResponse, error) {
	answer := &ImagesResponse{
		Created: time.Now().Unix(), Data: make([]Image, len(results)),
		Background: "opaque", OutputFormat: r.format, Quality: r.request.Quality, Size: r.size(),
		Usage: r.usage(len(results)), SafetyIdentifier: r.user,
	}
	details := make([]*pipeline.Result, len(results))
	for k := range results {
		var err error
		if answer.Data[k], err = s.image(r, &results[k]); err != nil {
			return nil, err
		}
		details[k] = &results[k]
	}
	answer.FaceDiffuser = r.details(details...)
	return answer, nil
}

func (r *session) size() string { return fmt.Sprintf("%dx%d", r.request.Width, r.request.Height) }

func (r *session) usage(pictures int) Usage {
	text, images := r.dims.Tokens, len(r.request.Subjects)
	out := pictures * r.dims.LatentHeight * r.dims.LatentWidth
	return Usage{
		InputTokens: text + images, OutputTokens: out, TotalTokens: text + images + out,
		InputTokensDetails: InputDetails{TextTokens: text, ImageTokens: images},
	}
}

func (r *session) details(results ...*pipeline.Result) Details {
	d := Details{
		JobID: r.job.ID, PromptUsed: r.request.PromptUsed, Warnings: r.request.Warnings,
		Parameters: results[0].Parameters, Images: make([]ImageDetails, len(results)),
	}
	if d.Warnings == nil {
		d.Warnings = []pipeline.Warning{} // [], not null
	}
	for k, result := range results {
		fusion := FusionDetails{Steps: []int{}, SDMShare: []float64{}}
		for _, step := range result.Fusion {
			fusion.Steps = append(fusion.Steps, step.Step)
			fusion.SDMShare = append(fusion.SDMShare, step.SDMShare)
		}
		d.Images[k] = ImageDetails{Seed: result.Seed, Fusion: fusion, Timings: Timings{
			Total:    result.Timings.Total.Seconds(),
			Queued:   result.Timings.Queued.Seconds(),
			Networks: result.Timings.Networks.Seconds(),
		}}
	}
	return d
}
