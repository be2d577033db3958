package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/facediffuser/facediffuser/gateway/internal/networks"
)

// Faults of replicas beside one another.
const (
	ReplicasDiffer networks.Code = "replicas_differ"
	ReleasesDiffer networks.Code = "releases_differ"
)

// compareConfigs holds every replica against the first sound one, or the first that
// serves anything. Any step of a picture may run on any replica, so they must be alike
// in all that a call or its answer depends on; instances may differ.
func compareConfigs(patients []*patient) {
	reference := 0
	if i := slices.IndexFunc(patients, (*patient).sound); i >= 0 {
		reference = i
	} else if i := slices.IndexFunc(patients, func(p *patient) bool { return len(p.configs) > 0 }); i >= 0 {
		reference = i
	}
	like := patients[reference]
	for i, p := range patients {
		if i == reference || p.replica.Triton == "" || like.replica.Triton == "" {
			continue
		}
		as := ", as on " + like.replica.Address
		if p.replica.Triton != like.replica.Triton {
			p.found(networks.Fault{Code: ReleasesDiffer, Warning: true, What: "release of Triton", Found: p.replica.Triton, Want: like.replica.Triton + as,
				Remedy: "finish the upgrade: until then the same seed does not always give the same picture"})
		}
		for _, m := range p.replica.Models {
			at := slices.IndexFunc(like.replica.Models, func(other Model) bool { return other.Name == m.Name })
			if at < 0 || p.faulty(m.Name) {
				continue // a fault already: what differs is the same fault once more
			}
			ours, theirs := p.settings(m), like.settings(like.replica.Models[at])
			for s, setting := range ours {
				if setting.value != theirs[s].value {
					p.found(networks.Fault{Code: ReplicasDiffer, Model: m.Name, What: setting.name, Found: setting.value, Want: theirs[s].value + as,
						Remedy: "let all replicas load the same model repository"})
				}
			}
		}
	}
}

type setting struct{ name, value string }

// settings are what must be the same on all replicas.
func (p *patient) settings(m Model) []setting {
	return []setting{
		{"version", strings.Join(m.Versions, ", ")},
		{"backend", m.Backend},
		{"max_batch_size", fmt.Sprint(m.MaxBatchSize)},
		{"dynamic_batching", fmt.Sprint(m.DynamicBatching)},
		{"inputs", strings.Join(slices.Sorted(slices.Values(m.Inputs)), "; ")},
		{"outputs", strings.Join(slices.Sorted(slices.Values(m.Outputs)), "; ")},
		{networks.WeightsParameter, cmp.Or(p.configs[m.Name].Parameters[networks.WeightsParameter].GetStringValue(), "none stated")},
	}
}

// compareAnswers holds the answers of every measured replica against the first one's:
// models of the same shape with other weights differ in nothing else.
func compareAnswers(patients []*patient) {
	var like *patient
	for _, p := range patients {
		if p.replica.Measured == nil {
			continue
		}
		if like == nil {
			like = p
			continue
		}
		for _, model := range networks.Models {
			if by := difference(p.answers[model], like.answers[model]); by > sameAnswer {
				p.found(networks.Fault{Code: AnswersDiffer, Model: model, Found: fmt.Sprintf("an answer that differs by %.0f %%", 100*by),
					Want: "the answer of " + like.replica.Address, Remedy: "let all replicas load the same weights"})
			}
		}
	}
}
