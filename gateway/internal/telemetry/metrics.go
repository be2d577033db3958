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
	// NetworkSeconds has one observation per call to a network. Label: model
	// (the network, as Triton names it).
	NetworkSeconds *prometheus.HistogramVec

	PicturesWaiting prometheus.Gauge
	PicturesRunning prometheus.Gauge
	// Pictures counts pictures that left the runner. Label: outcome.
	Pictures *prometheus.CounterVec
	// PictureSeconds is a picture's time from leaving the queue to being complete.
	PictureSeconds prometheus.Histogram
	// QueueSeconds is a picture's time in the queue.
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

// Buckets in seconds: a step on a GPU takes some 10 ms, a picture on a CPU may take minutes.
var (
	callBuckets    = prometheus.ExponentialBucketsRange(0.002, 8, 13)
	pictureBuckets = prometheus.ExponentialBucketsRange(0.25, 300, 12)
)

// NewMetrics makes the metrics and registers them, together with those of the
// Go runtime and the process.
func NewMetrics(registry prometheus.Registerer, build Build) *Metrics {
	m := &Metrics{registry: registry}
	add := func(c prometheus.Collector) { registry.MustRegister(c) }

	m.StepSeconds = histogramVec("step_seconds", "Seconds of one denoising step of one picture.", callBuckets, "model", "stage")
	m.NetworkSeconds = histogramVec("network_seconds", "Seconds of one call to one network, queueing in Triton included.", callBuckets, "model")
	m.PicturesWaiting = gauge("pictures_waiting", "Pictures admitted and waiting for a slot.")
	m.PicturesRunning = gauge("pictures_running", "Pictures in their denoising loop.")
	m.Pictures = counterVec("pictures_total", "Pictures by outcome.", "outcome")
	m.PictureSeconds = histogram("picture_seconds", "Seconds of one picture, from leaving the queue.", pictureBuckets)
	m.QueueSeconds = histogram("queue_seconds", "Seconds that one picture waited for a slot.", append([]float64{0.01, 0.1}, pictureBuckets...))
	m.SafetyChecks = counterVec("safety_checks_total", "Finished pictures that the safety checker has seen.", "verdict")
	m.Errors = counterVec("errors_total", "Failed requests by kind of error.", "kind")
	m.HTTPRequests = counterVec("http_requests_total", "Answered HTTP requests.", "route", "method", "status")
	m.HTTPSeconds = histogramVec("http_request_seconds", "Seconds from a request's head to its last byte.", append([]float64{0.005, 0.05}, pictureBuckets...), "route")
	m.HTTPInFlight = gauge("http_requests_in_flight", "HTTP requests being answered.")
	m.UploadBytes = histogram("upload_bytes", "Bytes of one request body of /v1/images.", prometheus.ExponentialBuckets(1<<10, 8, 7))
	for _, c := range []prometheus.Collector{
		m.StepSeconds, m.NetworkSeconds, m.PicturesWaiting, m.PicturesRunning, m.Pictures, m.PictureSeconds, m.QueueSeconds,
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
