package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/facediffuser/facediffuser/gateway/internal/job"
	"github.com/facediffuser/facediffuser/gateway/internal/pipeline"
)

// streamEvent has the keys that all events of a stream with a picture share.
type streamEvent struct {
	Type         string `json:"type"` // same as the event's name
	CreatedAt    int64  `json:"created_at"`
	ImageIndex   int    `json:"image_index"`
	B64JSON      string `json:"b64_json"`
	Background   string `json:"background"`
	OutputFormat string `json:"output_format"`
	Quality      string `json:"quality"`
	Size         string `json:"size"`
}

// PartialImageEvent carries the predicted clean picture (x0) of a step.
type PartialImageEvent struct {
	streamEvent
	PartialImageIndex int   `json:"partial_image_index"`
	NSFW              *bool `json:"nsfw,omitempty"` // as in Image
}

// CompletedEvent carries one finished picture; there is one for each of n.
type CompletedEvent struct {
	streamEvent
	Usage            Usage   `json:"usage"`          // of this picture
	RevisedPrompt    string  `json:"revised_prompt"` // as in Image
	Seed             uint32  `json:"seed"`
	NSFW             *bool   `json:"nsfw,omitempty"` // as in Image
	FusionMap        string  `json:"fusion_map,omitempty"`
	SafetyIdentifier string  `json:"safety_identifier,omitempty"`
	FaceDiffuser     Details `json:"facediffuser"`
}

// ProgressEvent tells of one step; only requests with progress=true get them.
type ProgressEvent struct {
	Type       string `json:"type"`
	CreatedAt  int64  `json:"created_at"`
	ImageIndex int    `json:"image_index"`
	Step       int    `json:"step"`  // done, 1 … steps
	Steps      int    `json:"steps"` // of the loop: num_inference_steps, or one more
	Stage      string `json:"stage"`
}

// stream answers with server-sent events while the job runs. The head waits
// for the first event, so that a job that fails before it has begun is an
// ordinary error, which clients may try again. Ending the connection ends the job.
func (s *server) stream(c *gin.Context, r *session) {
	ctx := c.Request.Context()
	silence := time.NewTimer(s.Limits.KeepAlive)
	defer silence.Stop()
	for n := 0; ; {
		events, more := r.job.Since(n)
		n += len(events)
		for _, e := range events {
			name, data, err := s.streamData(r, e)
			if err == nil && e.State.Final() && e.State != job.Succeeded {
				_, err = r.job.Wait(ctx)
			}
			if err != nil {
				s.breakOff(c, err)
				return
			}
			if data != nil {
				if !s.send(c, name, data) {
					_ = s.note(c, context.Canceled)
					return
				}
				silence.Reset(s.Limits.KeepAlive)
			}
			if e.State.Final() {
				return
			}
		}
		select {
		case <-more:
		case <-silence.C:
			if !s.write(c, ": keepalive\n\n") {
				_ = s.note(c, context.Canceled)
				return
			}
			silence.Reset(s.Limits.KeepAlive)
		case <-ctx.Done():
			_ = s.note(c, ctx.Err())
			return
		}
	}
}

// streamData is what a client is sent for an entry of the job's history; nil for nothing.
func (s *server) streamData(r *session, e job.Event) (name string, data any, err error) {
	if e.Picture == nil {
		return "", nil, nil
	}
	p := e.Picture
	switch p.Kind {
	case pipeline.Step:
		if !r.progress {
			return "", nil, nil
		}
		name = r.on.event("progress")
		return name, ProgressEvent{
			Type: name, CreatedAt: e.At.Unix(), ImageIndex: p.Image, Step: p.Step, Steps: p.Steps, Stage: p.Stage.String(),
		}, nil
	case pipeline.Preview:
		name = r.on.event("partial_image")
		event := PartialImageEvent{streamEvent: r.streamEvent(name, e), PartialImageIndex: p.PreviewIndex, NSFW: p.NSFW}
		event.B64JSON, err = s.encode(r, p.Picture, nil)
		return name, event, err
	case pipeline.Finished:
		name = r.on.event("completed")
		image, err := s.image(r, p.Result)
		event := CompletedEvent{
			streamEvent: r.streamEvent(name, e), Usage: r.usage(1), RevisedPrompt: image.RevisedPrompt, Seed: image.Seed, NSFW: image.NSFW, FusionMap: image.FusionMap,
			SafetyIdentifier: r.user, FaceDiffuser: r.details(p.Result),
		}
		event.B64JSON = image.B64JSON
		return name, event, err
	}
	return "", nil, nil
}

func (r *session) streamEvent(name string, e job.Event) streamEvent {
	return streamEvent{
		Type: name, CreatedAt: e.At.Unix(), ImageIndex: e.Picture.Image,
		Background: "opaque", OutputFormat: r.format, Quality: r.request.Quality, Size: r.size(),
	}
}

// breakOff ends a stream by an error: as an ordinary answer before the first
// event, else as the event that both SDKs raise.
func (s *server) breakOff(c *gin.Context, err error) {
	if !c.Writer.Written() {
		s.fail(c, err)
		return
	}
	s.send(c, "error", ErrorBody{Type: "error", Error: s.note(c, err).body()})
}

func (s *server) send(c *gin.Context, name string, data any) bool {
	return s.write(c, fmt.Sprintf("event: %s\ndata: %s\n", name, marshal(data)))
}

// write sends a piece of a stream at once; false when the client does not
// take it. The first piece sends the head.
func (s *server) write(c *gin.Context, piece string) bool {
	if !c.Writer.Written() {
		c.Header("Content-Type", "text/event-stream; charset=utf-8")
		c.Header("Cache-Control", "no-store")
		c.Header("X-Accel-Buffering", "no") // nginx would hold the events back
		c.Writer.WriteHeader(http.StatusOK)
	}
	s.allowWrite(c)
	if _, err := c.Writer.WriteString(piece); err != nil {
		return false
	}
	return http.NewResponseController(c.Writer).Flush() == nil
}
