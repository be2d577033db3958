package tritonclient

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/facediffuser/facediffuser/tritonclient/inference"
)

// Request is one inference. The memory of its inputs is read until Infer returns
// and not after.
type Request struct {
	Model  string
	ID     string // echoed in the response and in Triton's traces
	Inputs []Tensor
	// Outputs are the tensors wanted and what they must look like; none means
	// whatever the model gives, unchecked but for consistency.
	Outputs []Output
	// Timeout bounds the whole call with its retries, beside the context; 0 is none.
	Timeout time.Duration
	// Priority is for models with priority levels, 1 the highest; 0 is the model's default.
	Priority uint64
	// QueueTimeout bounds the time in the model's queue, where the model's
	// configuration allows a request to say so; 0 is the model's default.
	QueueTimeout time.Duration
}

// Output is a wanted output tensor. An answer that does not fit is a BadResponse.
type Output struct {
	Name     string
	Datatype Datatype // "" accepts any
	Shape    []int64  // nil accepts any; -1 accepts any size of that dimension
	Finite   bool     // an answer with NaN or infinity is NotFinite
}

// Response is the answer to a Request.
type Response struct {
	Model, Version, ID string
	Replica            string   // that answered
	Outputs            []Tensor // in the order of Request.Outputs, if it had any
	buffers            []*[]byte
}

// Output is the tensor of that name.
func (r *Response) Output(name string) (Tensor, error) {
	for _, t := range r.Outputs {
		if t.Name == name {
			return t, nil
		}
	}
	return Tensor{}, fmt.Errorf("no output %q", name)
}

// Release hands the memory of the outputs back for later responses. Calling it is
// optional, once at most, and nothing that shares memory with an output (Data,
// Float32s, Int64s) may be used after it.
func (r *Response) Release() {
	for _, b := range r.buffers {
		tensorPool.Put(b)
	}
	r.buffers, r.Outputs = nil, nil
}

// Infer runs a model. The error is an *Error.
func (p *Pool) Infer(ctx context.Context, request Request) (*Response, error) {
	for _, t := range request.Inputs {
		if err := t.check(); err != nil {
			return nil, &Error{Op: "ModelInfer", Model: request.Model, Kind: InvalidArgument, Err: err}
		}
	}
	caller := ctx
	if request.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, request.Timeout)
		defer cancel()
	}
	message := &inferRequest{header: request.header(), inputs: request.Inputs}
	var response *Response
	err := p.do(ctx, "ModelInfer", request.Model, func(ctx context.Context, r *replica) error {
		answer := new(inferResponse)
		r.models.begin(request.Model)
		began := time.Now()
		err := r.conn.Invoke(ctx, inference.GRPCInferenceService_ModelInfer_FullMethodName, message, answer)
		took := time.Since(began)
		missed := gaveUp(caller, ctx, err)
		if err == nil {
			response, err = answer.check(request)
		}
		if !missed {
			r.models.note(request.Model, took, request.Timeout, err)
		}
		if err != nil {
			release(answer.raw)
			return err
		}
		response.Replica = r.address
		return nil
	})
	if err != nil {
		return nil, err
	}
	return response, nil
}

// gaveUp says whether a call failed because of how long its caller would wait, which says nothing
// of the model: not by the deadline of ctx, which is the request's own if that is earlier.
func gaveUp(caller, ctx context.Context, err error) bool {
	if caller.Err() != nil {
		return true
	}
	patience, limited := caller.Deadline()
	deadline, _ := ctx.Deadline()
	// gRPC may find a deadline to have passed before the context does.
	return err != nil && kindOf(err) == DeadlineExceeded && limited && !deadline.Before(patience)
}

func (r Request) header() *inference.ModelInferRequest {
	h := &inference.ModelInferRequest{
		ModelName: r.Model,
		Id:        r.ID,
		Inputs:    make([]*inference.ModelInferRequest_InferInputTensor, len(r.Inputs)),
		Outputs:   make([]*inference.ModelInferRequest_InferRequestedOutputTensor, len(r.Outputs)),
	}
	for i, t := range r.Inputs {
		h.Inputs[i] = &inference.ModelInferRequest_InferInputTensor{Name: t.Name, Datatype: string(t.Datatype), Shape: t.Shape}
	}
	for i, o := range r.Outputs {
		h.Outputs[i] = &inference.ModelInferRequest_InferRequestedOutputTensor{Name: o.Name}
	}
	if r.Priority > 0 || r.QueueTimeout > 0 {
		h.Parameters = make(map[string]*inference.InferParameter)
	}
	if r.Priority > 0 {
		h.Parameters["priority"] = &inference.InferParameter{ParameterChoice: &inference.InferParameter_Uint64Param{Uint64Param: r.Priority}}
	}
	if r.QueueTimeout > 0 {
		h.Parameters["timeout"] = &inference.InferParameter{ParameterChoice: &inference.InferParameter_Int64Param{Int64Param: r.QueueTimeout.Microseconds()}}
	}
	return h
}

// check holds the answer against the request.
func (a *inferResponse) check(request Request) (*Response, error) {
	bad := func(err error) (*Response, error) { return nil, &Error{Kind: BadResponse, Err: err} }
	if a.fault != nil {
		return bad(fmt.Errorf("the answer cannot be read: %w", a.fault))
	}
	if a.header.ModelName != request.Model {
		return bad(fmt.Errorf("the answer is of model %q", a.header.ModelName))
	}
	if len(a.raw) != len(a.header.Outputs) {
		return bad(fmt.Errorf("the answer has %d tensors and %d raw contents", len(a.header.Outputs), len(a.raw)))
	}
	response := &Response{Model: a.header.ModelName, Version: a.header.ModelVersion, ID: a.header.Id, buffers: a.raw}
	tensors := make([]Tensor, len(a.raw))
	for i, o := range a.header.Outputs {
		tensors[i] = Tensor{Name: o.Name, Datatype: Datatype(o.Datatype), Shape: o.Shape, Data: *a.raw[i]}
		if err := tensors[i].check(); err != nil {
			return bad(err)
		}
	}
	if len(request.Outputs) == 0 {
		response.Outputs = tensors
		return response, nil
	}
	for _, want := range request.Outputs {
		i := slices.IndexFunc(tensors, func(t Tensor) bool { return t.Name == want.Name })
		if i < 0 {
			return bad(fmt.Errorf("the answer lacks output %q", want.Name))
		}
		if err := want.accepts(tensors[i]); err != nil {
			return bad(err)
		}
		if want.Finite && !tensors[i].allFinite() {
			return nil, &Error{Kind: NotFinite, Err: notFinite(tensors[i])}
		}
		response.Outputs = append(response.Outputs, tensors[i])
	}
	return response, nil
}

func (o Output) accepts(t Tensor) error {
	if o.Datatype != "" && o.Datatype != t.Datatype {
		return fmt.Errorf("output %s is %s, want %s", t.Name, t.Datatype, o.Datatype)
	}
	if o.Shape == nil {
		return nil
	}
	if !slices.EqualFunc(t.Shape, o.Shape, func(got, want int64) bool { return want < 0 || got == want }) {
		return fmt.Errorf("output %s has shape %v, want %v", t.Name, t.Shape, o.Shape)
	}
	return nil
}

func release(buffers []*[]byte) {
	for _, b := range buffers {
		tensorPool.Put(b)
	}
}
