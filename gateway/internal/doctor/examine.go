package doctor

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/facediffuser/facediffuser/gateway/internal/family"
	"github.com/facediffuser/facediffuser/gateway/internal/networks"
	"github.com/facediffuser/facediffuser/gateway/internal/tokenizer"
	"github.com/facediffuser/facediffuser/tritonclient"
	"github.com/facediffuser/facediffuser/tritonclient/inference"
)

const (
	// BrokenFamily is a family folder that the gateway would refuse to load.
	BrokenFamily networks.Code = "family"
	// LocalTriton is a Triton of our own that does not start, for a caller of Examine to report.
	LocalTriton networks.Code = "local_triton"
)

// Options say what to examine.
type Options struct {
	Family   string   // directory
	Replicas []string // host:port of each Triton
	// Local says that the replica loads the family's own models/.
	Local bool
	// Measure runs the networks of replicas that fit.
	Measure bool
	// Checked says whether the gateway would check pictures of a family, so that its
	// safety checker must be served; nil if it never does.
	Checked func(*family.Family) bool
	// Timeout bounds one call of one network.
	Timeout time.Duration
	// Progress, if not nil, is told what comes next. Its calls never overlap.
	Progress func(string)
}

// examination is one run of Examine.
type examination struct {
	Options
	family   *family.Family
	optional []string // models that must be served beside networks.Models
	words    *tokenizer.Tokenizer
	asked    *question // nil until the first replica is measured
}

// Examine looks at everything that it can reach. The error is ctx's: whatever else goes
// wrong is a finding.
func Examine(ctx context.Context, o Options) (*Report, error) {
	e := &examination{Options: o}
	r := &Report{Fits: true, Replicas: []Replica{}, Findings: []Finding{}}
	if err := e.loadFamily(r); err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") { // every fault of pipeline.json has one
			r.Add("", networks.Fault{Code: BrokenFamily, What: "--family " + o.Family, Found: line, Want: "a folder that the gateway can load",
				Remedy: "mend it, or name another"})
		}
		return r, nil
	}
	var patients []*patient
	for _, address := range o.Replicas {
		pool, err := tritonclient.New(tritonclient.Options{Replicas: []string{address}, Direct: true})
		if err != nil {
			r.Add(address, networks.Fault{Code: Unreachable, Found: err.Error(), Want: "host:port", Remedy: "correct --triton"})
			continue
		}
		defer pool.Close()
		patients = append(patients, &patient{
			replica: Replica{Address: address, Models: []Model{}, Predicted: []Prediction{}}, pool: pool, timeout: o.Timeout,
			networks: networks.New(pool, e.family, o.Timeout, e.optional...),
			configs:  map[string]*inference.ModelConfig{}, answers: map[string][]float32{},
		})
	}
	var inspections sync.WaitGroup
	for _, p := range patients {
		e.say("%s: reading the configurations", p.replica.Address)
		inspections.Go(func() { e.inspect(ctx, p) })
	}
	inspections.Wait()
	if len(patients) > 1 {
		compareConfigs(patients)
	}
	for _, p := range patients { // one after another: they may share a machine
		if o.Measure && p.sound() {
			if err := e.measure(ctx, p); err != nil {
				return nil, err
			}
		}
	}
	compareAnswers(patients)
	for _, p := range patients {
		r.Replicas = append(r.Replicas, p.replica)
		for _, f := range p.faults {
			r.Add(p.replica.Address, f)
		}
	}
	r.Fleet = fleet(r.Replicas)
	return r, ctx.Err()
}

// loadFamily reads what the gateway would read, and the weights where they are what is served.
func (e *examination) loadFamily(r *Report) (err error) {
	if e.family, err = family.Load(e.Family); err != nil {
		return err
	}
	if e.words, err = tokenizer.Load(e.family.TokenizerDir()); err != nil {
		return err
	}
	if e.Checked != nil && e.Checked(e.family) {
		e.optional = []string{networks.SafetyChecker}
	}
	r.Family = &Family{Directory: e.Family, Name: e.family.Name, Weights: e.family.WeightsSHA256}
	if !e.Local {
		return nil
	}
	e.say("%s: reading the weights", e.family.ModelsDir())
	switch hash, err := e.family.HashWeights(); {
	case err != nil:
		return fmt.Errorf("family: %w", err)
	case hash != "" && hash != e.family.WeightsSHA256:
		r.Add("", networks.Fault{Code: networks.WrongWeights, What: "models/", Found: hash, Want: e.family.WeightsSHA256 + ", weights_sha256 of pipeline.json",
			Remedy: "export both together: pipeline.json describes other networks"})
	}
	return nil
}

func (e *examination) say(format string, args ...any) {
	if e.Progress != nil {
		e.Progress(fmt.Sprintf(format, args...))
	}
}
