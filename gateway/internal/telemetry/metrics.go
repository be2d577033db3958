package telemetry

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Metrics are the gateway's own metrics. All fields are safe for concurrent use.
type Metrics struct {
	// StepSeconds has one observation per denoising step, from the end of the
	// picture's step before. Labels: model (the family), stage.
	StepSeconds *prometheus.HistogramVec
	// NetworkSeconds has one observation per call to a network that succeeded.
	// Label: model (the network, as Triton names it).
	NetworkSeconds *prometheus.HistogramVec
	// NetworkFailures counts attempts of a call to a network that failed, also
	// those after which another replica answered. Labels: model (the network),
	// replica, kind (of a tritonclient.Error).
	NetworkFailures *prometheus.CounterVec

	PicturesWaiting prometheus.Gauge
	PicturesRunning prometheus.Gauge
	// Pictures counts pictures that left the runner. Label: outcome.
	Pictures *prometheus.CounterVec
	// PictureSeconds is a picture's time from its slot to being complete.
	PictureSeconds prometheus.Histogram
	// QueueSeconds is a picture's time from the admission of its request to its
	// slot, behind other pictures of the request too.
	QueueSeconds prometheus.Histogram
	// SafetyChecks counts finished pictures that the safety checker has seen.
	// Label: verdict, one of the Safety constants.
	SafetyChecks *prometheus.CounterVec

	// Errors counts what went wrong. Label: kind, as in the error table of the HTTP API.
	Errors *prometheus.CounterVec

	// HTTPRequests counts answered requests. Labels: route (its pattern, never
	// the path that was asked for), method, status.
	HTTPRequests *prometheus.CounterVec
	HTTPSeconds  *prometheus.HistogramVec // route
	HTTPInFlight prometheus.Gauge
	UploadBytes  prometheus.Histogram

	// KeptRequests and KeptBytes are what is remembered of requests with an
	// Idempotency-Key that are done.
	KeptRequests prometheus.Gauge
	KeptBytes    prometheus.Gauge

	// Keys are the API keys in force; KeyReloads counts changes of their file.
	// Label: outcome, taken or refused.
	Keys       prometheus.Gauge
	KeyReloads *prometheus.CounterVec

	// Connections of a listener, those that were closed to make room, and
	// failures to accept one. Label: listener, public or admin; of
	// ConnectionsShed also phase, what the connection was doing.
	Connections     *prometheus.GaugeVec
	ConnectionsShed *prometheus.CounterVec
	AcceptErrors    *prometheus.CounterVec

	registry prometheus.Registerer
}

// Verdicts of SafetyChecks.
const (
	SafetyPassed  = "passed"
	SafetyFlagged = "flagged" // not safe for work, and delivered
	SafetyRefused = "refused" // not safe for work, and its request failed
)

// Build says what is running.
type Build struct {
	Version string
	Family  string
	Weights string // sha256
}

// Bounds of the histograms, in seconds. Round ones, so that an objective can be
// read off a bucket. callBounds are for a network or a step, some milliseconds on
// a GPU. waitBounds are for what a client waits for, from an answer without a
// picture to a picture on a CPU; they are the same for all of these, so that their
// quotients mean something.
var (
	callBounds = []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30}
	waitBounds = []float64{0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 60, 120, 300, 600}
)

// NewMetrics makes the metrics and registers them, together with those of the
// Go runtime and the process. Whoever knows the values of a label makes its series
// before the first observation: a rate over a series that begins with its first
// failure does not see that failure.
func NewMetrics(registry prometheus.Registerer, build Build) *Metrics {
	m := &Metrics{registry: registry}
	add := func(c prometheus.Collector) { registry.MustRegister(c) }

	m.StepSeconds = histogramVec("step_seconds", "Seconds of one denoising step of one picture.", callBounds, "model", "stage")
	m.NetworkSeconds = histogramVec("network_seconds", "Seconds of one call to one network, queueing in Triton included.", callBounds, "model")
	m.NetworkFailures = counterVec("network_failures_total", "Attempts of a call to a network that failed.", "model", "replica", "kind")
	m.PicturesWaiting = gauge("pictures_waiting", "Pictures admitted and waiting for a slot.")
	m.PicturesRunning = gauge("pictures_running", "Pictures in their denoising loop.")
	m.Pictures = counterVec("pictures_total", "Pictures by outcome.", "outcome")
	m.PictureSeconds = histogram("picture_seconds", "Seconds of one picture, from its slot to being complete.", waitBounds)
	m.QueueSeconds = histogram("queue_seconds", "Seconds from the admission of a request to the slot of one of its pictures.", waitBounds)
	m.SafetyChecks = counterVec("safety_checks_total", "Finished pictures that the safety checker has seen.", "verdict")
	m.Errors = counterVec("errors_total", "Failed requests by kind of error.", "kind")
	m.HTTPRequests = counterVec("http_requests_total", "Answered HTTP requests.", "route", "method", "status")
	m.HTTPSeconds = histogramVec("http_request_seconds", "Seconds from a request's head to its last byte.", waitBounds, "route")
	m.HTTPInFlight = gauge("http_requests_in_flight", "HTTP requests being answered.")
	m.UploadBytes = histogram("upload_bytes", "Bytes of one request body of /v1/images.", prometheus.ExponentialBuckets(1<<10, 8, 7))
	m.KeptRequests = gauge("kept_requests", "Requests with an Idempotency-Key whose pictures are kept.")
	m.KeptBytes = gauge("kept_bytes", "Bytes of memory that they hold.")
	m.Keys = gauge("keys", "API keys in force.")
	m.KeyReloads = counterVec("key_reloads_total", "Changes of the file of keys.", "outcome")
	m.Connections = prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: "connections", Help: "Open connections."}, []string{"listener"})
	m.ConnectionsShed = counterVec("connections_shed_total", "Connections closed because there were too many.", "listener", "phase")
	m.AcceptErrors = counterVec("accept_errors_total", "Failures to accept a connection.", "listener")
	for _, c := range []prometheus.Collector{
		m.KeptRequests, m.KeptBytes, m.Keys, m.KeyReloads, m.Connections, m.ConnectionsShed, m.AcceptErrors,
		m.StepSeconds, m.NetworkSeconds, m.NetworkFailures, m.PicturesWaiting, m.PicturesRunning, m.Pictures, m.PictureSeconds, m.QueueSeconds,
		m.SafetyChecks, m.Errors, m.HTTPRequests, m.HTTPSeconds, m.HTTPInFlight, m.UploadBytes,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		add(c)
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: namespace, Name: "build_info", Help: "1; the labels say what runs.",
		ConstLabels: prometheus.Labels{
			"version": build.Version, "go_version": runtime.Version(), "family": build.Family, "weights": build.Weights,
		},
	})
	info.Set(1)
	add(info)
	for _, verdict := range []string{SafetyPassed, SafetyFlagged, SafetyRefused} {
		m.SafetyChecks.WithLabelValues(verdict)
	}
	return m
}

// Replica is the state of one Triton replica.
type Replica struct {
	Address string
	Ready   bool
	Breaker string // closed, half-open or open
}

// WatchReplicas adds the replicas' state, asked for at every scrape.
func (m *Metrics) WatchReplicas(replicas func() []Replica) {
	m.registry.MustRegister(replicaCollector(replicas))
}

type replicaCollector func() []Replica

var (
	replicaReady   = prometheus.NewDesc(namespace+"_replica_ready", "1 while a Triton replica is ready, else 0.", []string{"replica"}, nil)
	replicaBreaker = prometheus.NewDesc(namespace+"_breaker_state", "Circuit breaker of a Triton replica: 0 closed, 1 half-open, 2 open.", []string{"replica"}, nil)
)

func (replicaCollector) Describe(out chan<- *prometheus.Desc) {
	out <- replicaReady
	out <- replicaBreaker
}

func (c replicaCollector) Collect(out chan<- prometheus.Metric) {
	for _, r := range c() {
		var ready float64
		if r.Ready {
			ready = 1
		}
		state := map[string]float64{"closed": 0, "half-open": 1, "open": 2}[r.Breaker]
		out <- prometheus.MustNewConstMetric(replicaReady, prometheus.GaugeValue, ready, r.Address)
		out <- prometheus.MustNewConstMetric(replicaBreaker, prometheus.GaugeValue, state, r.Address)
	}
}

const namespace = "facediffuser"

func gauge(name, help string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help})
}

func counterVec(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
}

func histogram(name, help string, buckets []float64) prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: buckets})
}

func histogramVec(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: buckets}, labels)
}
