package doctor

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/facediffuser/facediffuser/gateway/internal/networks"
	"github.com/facediffuser/facediffuser/gateway/internal/pipeline"
)

// Report is what Examine has found. Its JSON is for scripts.
type Report struct {
	Fits     bool      `json:"fits"` // no finding is more than a warning
	Family   *Family   `json:"family"`
	Replicas []Replica `json:"replicas"`
	// Fleet is what all replicas do together; nil unless one was measured.
	Fleet    *Fleet    `json:"fleet"`
	Findings []Finding `json:"findings"`
}

// Family is the folder that the gateway would load.
type Family struct {
	Directory string `json:"directory"`
	Name      string `json:"name"`
	Weights   string `json:"weights_sha256"`
}

// Replica is one Triton server.
type Replica struct {
	Address   string  `json:"address"`
	Ready     bool    `json:"ready"`
	Triton    string  `json:"triton"`             // its release; "" if it does not answer
	RoundTrip float64 `json:"round_trip_seconds"` // of a call without work
	// Sizes are the dimensions of its networks; nil if they do not fit together.
	Sizes *Sizes `json:"sizes"`
	// Models are those of the contract that it serves.
	Models   []Model   `json:"models"`
	Measured *Measured `json:"measured"` // nil if it was not, or could not be
	// Predicted has an entry for every preset of quality.
	Predicted []Prediction `json:"predicted"`
}

// Sizes are what the dimensions of the contract are on a replica.
type Sizes struct {
	Tokens    int    `json:"tokens"`
	Width     int    `json:"width"` // of a token's state
	Subjects  int    `json:"subjects"`
	Reference int    `json:"reference"` // side of the image encoder's input, pixels
	Latents   [3]int `json:"latents"`
	Picture   [2]int `json:"picture"` // height and width, pixels
}

// Model is a model as its server describes it.
type Model struct {
	Name            string   `json:"name"`
	Versions        []string `json:"versions"`
	Backend         string   `json:"backend"`
	MaxBatchSize    int32    `json:"max_batch_size"`
	DynamicBatching bool     `json:"dynamic_batching"`
	Floats          string   `json:"floats"`    // datatype of its tensors but the integers: "FP16"
	Instances       string   `json:"instances"` // "1 on GPU 0"
	Inputs          []string `json:"inputs"`    // "sample FP32 [4, 64, 64]"
	Outputs         []string `json:"outputs"`
}

// Finding is a fault, and the replica that has it.
type Finding struct {
	Replica string `json:"replica"` // "" if it is not one replica's
	networks.Fault
}

// String is the finding in one line: what, found, wanted, what to do.
func (f Finding) String() string {
	kind, where, remedy := "FAULT", []string{f.Replica, f.Model, f.What}, f.Remedy
	if f.Warning {
		kind = "warning"
	}
	where = slices.DeleteFunc(where, func(s string) bool { return s == "" })
	if remedy != "" {
		remedy = " " + strings.ToUpper(remedy[:1]) + remedy[1:] + "."
	}
	return fmt.Sprintf("%s [%s] %s: found %s, want %s.%s", kind, f.Code, strings.Join(where, " "), f.Found, f.Want, remedy)
}

// Add takes a finding in.
func (r *Report) Add(replica string, f networks.Fault) {
	r.Findings = append(r.Findings, Finding{Replica: replica, Fault: f})
	r.Fits = r.Fits && f.Warning
}

// Faults counts the findings that are more than warnings.
func (r *Report) Faults() (n int) {
	for _, f := range r.Findings {
		if !f.Warning {
			n++
		}
	}
	return n
}

func (r *Report) faultsOf(replica, model string) (n int) {
	for _, f := range r.Findings {
		if f.Replica == replica && f.Model == model && !f.Warning {
			n++
		}
	}
	return n
}

// WriteText writes the report for a person.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	if f := r.Family; f != nil {
		fmt.Fprintf(&b, "Family %s in %s, weights %.12s\n", f.Name, f.Directory, f.Weights)
	}
	for i := range r.Replicas {
		r.writeReplica(&b, &r.Replicas[i])
	}
	if f := r.Fleet; f != nil && len(r.Replicas) > 1 {
		fmt.Fprintf(&b, "\nAll replicas together, with `serve --max-running %d`\n\n", f.MaxRunning)
		writePredictions(&b, f.Predicted)
	}
	if r.Fleet != nil {
		b.WriteString("\nA picture: one subject, on an idle replica. Pictures an hour: at best, with as many at once as fill an execution.\n")
	}
	b.WriteString("\n")
	for _, f := range r.Findings {
		fmt.Fprintln(&b, f)
	}
	switch faults, warnings := r.Faults(), len(r.Findings)-r.Faults(); {
	case faults > 0:
		fmt.Fprintf(&b, "%s, %s: docs/troubleshooting.md explains each by its name in brackets.\n", count(faults, "fault"), count(warnings, "warning"))
	case warnings > 0:
		fmt.Fprintf(&b, "Everything fits; %s.\n", count(warnings, "warning"))
	default:
		b.WriteString("Everything fits.\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func (r *Report) writeReplica(b *strings.Builder, replica *Replica) {
	fmt.Fprintf(b, "\nReplica %s: ", replica.Address)
	switch {
	case replica.Triton == "":
		b.WriteString("does not answer\n")
		return
	case !replica.Ready:
		fmt.Fprintf(b, "Triton %s, NOT READY", replica.Triton)
	default:
		fmt.Fprintf(b, "Triton %s, ready", replica.Triton)
	}
	fmt.Fprintf(b, ", round trip %s\n", milliseconds(replica.RoundTrip))
	if s := replica.Sizes; s != nil {
		fmt.Fprintf(b, "  %d tokens of width %d, %d subjects, references %d×%d, latents %d×%d×%d, pictures %d×%d\n",
			s.Tokens, s.Width, s.Subjects, s.Reference, s.Reference, s.Latents[0], s.Latents[1], s.Latents[2], s.Picture[1], s.Picture[0])
	}
	b.WriteString("\n")
	table := columns(b)
	fmt.Fprintln(table, "  \tmodel\tversion\tbackend\tfloats\tmax batch\tbatching\tinstances")
	for _, name := range networks.Models {
		verdict := "ok"
		if n := r.faultsOf(replica.Address, name); n > 0 {
			verdict = count(n, "fault")
		}
		i := slices.IndexFunc(replica.Models, func(m Model) bool { return m.Name == name })
		if i < 0 {
			fmt.Fprintf(table, "  %s\t%s\t-\t-\t-\t-\t-\t-\n", verdict, name)
			continue
		}
		m, batching := replica.Models[i], "none"
		if m.DynamicBatching {
			batching = "dynamic"
		}
		fmt.Fprintf(table, "  %s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", verdict, name, strings.Join(m.Versions, ","), m.Backend, m.Floats, m.MaxBatchSize,
			batching, m.Instances)
	}
	_ = table.Flush() // into memory
	if replica.Measured == nil {
		return
	}
	b.WriteString("\n")
	replica.Measured.write(b)
	b.WriteString("\n")
	writePredictions(b, replica.Predicted)
}

func (m *Measured) write(b *strings.Builder) {
	var sizes []Batch // columns: the batches that either UNet was measured at
	for _, batch := range slices.Concat(m.TDM, m.SDM) {
		if !slices.ContainsFunc(sizes, batch.alike) {
			sizes = append(sizes, batch)
		}
	}
	table := columns(b)
	fmt.Fprint(table, "  one call of")
	for _, size := range sizes {
		fmt.Fprintf(table, "\t%s", size)
	}
	fmt.Fprintln(table)
	for _, unet := range []struct {
		name    string
		batches []Batch
	}{{string(pipeline.TDM), m.TDM}, {string(pipeline.SDM), m.SDM}, {"both UNets at once", []Batch{{Rows: 2, AtOnce: 1, Seconds: m.Both}}}} {
		fmt.Fprint(table, "  "+unet.name)
		for _, size := range sizes {
			cell := "-"
			if i := slices.IndexFunc(unet.batches, size.alike); i >= 0 {
				cell = milliseconds(unet.batches[i].Seconds)
			}
			fmt.Fprintf(table, "\t%s", cell)
		}
		fmt.Fprintln(table)
	}
	for _, one := range []struct {
		name    string
		seconds float64
	}{{"text_encoder", m.TextEncoder}, {"image_encoder", m.ImageEncoder}, {"subject_fuser", m.SubjectFuser}, {"vae_decoder", m.VAEDecoder}, {networks.SafetyChecker, m.SafetyChecker}} {
		if one.name == networks.SafetyChecker && one.seconds == 0 {
			continue // pictures are not checked
		}
		fmt.Fprintf(table, "  %s\t%s\n", one.name, milliseconds(one.seconds))
	}
	_ = table.Flush() // into memory
}

func writePredictions(b *strings.Builder, all []Prediction) {
	table := columns(b)
	fmt.Fprintln(table, "  quality\tscheduler\tsteps\tscene + fusion + subject\ta picture\tpictures an hour")
	for _, p := range all {
		fmt.Fprintf(table, "  %s\t%s\t%d\t%d + %d + %d\t%s\t%s\n", p.Quality, p.Scheduler, p.Steps, p.Scene, p.Fusion, p.Enhancement,
			significant(p.Seconds)+" s", significant(p.PerHour))
	}
	_ = table.Flush() // into memory
}

func columns(b *strings.Builder) *tabwriter.Writer { return tabwriter.NewWriter(b, 0, 0, 2, ' ', 0) }

func milliseconds(seconds float64) string { return significant(1000*seconds) + " ms" }

// significant writes a measured number with two digits, or all of those before the point.
func significant(v float64) string {
	switch {
	case v >= 10:
		return fmt.Sprintf("%.0f", v)
	case v >= 1:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
