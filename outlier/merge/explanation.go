package merge

import (
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// Span is a length of time that is text in JSON, as in "1.25s".
type Span time.Duration

// String gives the span as time.Duration writes it.
func (s Span) String() string { return time.Duration(s).String() }

// MarshalText gives the span as time.Duration writes it.
func (s Span) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (s *Span) UnmarshalText(text []byte) error {
	d, err := time.ParseDuration(string(text))
	*s = Span(d)
	return err
}

// Explanation is why an endpoint is where it is, or why something was not done
// about it. Scores are nats.
type Explanation struct {
	Service  string            `json:"service"`
	Instance string            `json:"instance"`
	Labels   map[string]string `json:"labels,omitempty"`
	Scope    Scope             `json:"scope,omitempty"`
	State    string            `json:"state"`
	Epoch    uint64            `json:"epoch"`
	Rule     string            `json:"rule"`
	Reason   string            `json:"reason,omitempty"` // one sentence

	// Counts are the attempts and failures since the excursion began; Window is how
	// long ago that was.
	Counts Tally `json:"counts"`
	Window Span  `json:"window"`

	Reporters int             `json:"reporters"`           // with evidence in the window
	Domains   int             `json:"domains"`             // fault domains that speak against it
	Top       []ReporterShare `json:"top,omitempty"`       // the five that speak loudest
	Muted     []string        `json:"muted,omitempty"`     // fault domains set aside
	T         float64         `json:"t"`                   // leave-one-out statistic
	LargestC  float64         `json:"largest_c"`           // what was left out
	Threshold float64         `json:"threshold,omitempty"` // h of the rule
	P0        float64         `json:"p0,omitempty"`
	P1        float64         `json:"p1,omitempty"`
	Pg        float64         `json:"p_g,omitempty"`
	// PgMeasured is false while most of Pg is what is assumed of a new service.
	PgMeasured bool    `json:"p_g_measured"`
	W          float64 `json:"w,omitempty"`
	Rate       float64 `json:"rate,omitempty"` // attempts per second on the endpoint

	// Weight is the part of its share that the endpoint gets for being slow; 0: all of it.
	Weight float64 `json:"weight,omitempty"`

	// Trial is the test on probation that goes on, or that was failed.
	Trial *Trial `json:"trial,omitempty"`

	Guards    []Guard       `json:"guards,omitempty"`
	Witnesses []Witness     `json:"witnesses,omitempty"`
	Probes    []ProbeAnswer `json:"probes,omitempty"`
	Findings  []string      `json:"findings,omitempty"`
	// Avoiders have taken the endpoint out by themselves. They are known to Explain, and no
	// part of a verdict: there may be a thousand.
	Avoiders []Avoider `json:"avoiders,omitempty"`

	// Away is for how long it has not been in, through all states, Cause why it was
	// taken out then: Reason is that of the newest change.
	Away  Span   `json:"away,omitempty"`
	Cause string `json:"cause,omitempty"`

	Since    Span      `json:"since"` // in this state for so long
	N        int       `json:"n"`     // ejections on record
	Next     string    `json:"next,omitempty"`
	ETA      Span      `json:"eta,omitempty"`
	Override *Override `json:"override,omitempty"`
}

// Tally is counts by class.
type Tally struct {
	N        int64 `json:"n"` // attempts that say something about the endpoint
	K        int64 `json:"k"` // of these, failures
	Conn     int64 `json:"conn"`
	Timeout  int64 `json:"timeout"`
	Server   int64 `json:"server"`
	Overload int64 `json:"overload"`
	Censored int64 `json:"censored"`
}

func (a *Tally) add(d outlier.Counts) {
	a.N += int64(d.N)
	a.K += int64(d.K())
	a.Conn += int64(d.Conn)
	a.Timeout += int64(d.Timeout)
	a.Server += int64(d.Server)
	a.Overload += int64(d.Over)
	a.Censored += int64(d.Cens)
}

// ReporterShare is what one reporter adds to the statistic.
type ReporterShare struct {
	Reporter string  `json:"reporter"`
	Domain   string  `json:"domain"`
	Zone     string  `json:"zone,omitempty"`
	N        int64   `json:"n"`
	K        int64   `json:"k"`
	C        float64 `json:"c"`
	Muted    bool    `json:"muted,omitempty"`
}

// Trial is a test by real requests: a sequential probability ratio test between P1,
// still bad, and P0, as good as its group.
type Trial struct {
	Counts Tally   `json:"counts"`
	Score  float64 `json:"score"` // in again at 0
	Out    float64 `json:"out"`   // out again at
	P0     float64 `json:"p0"`
	P1     float64 `json:"p1"`
	// Reporters send the requests, those first that speak against the endpoint.
	Reporters []ReporterShare `json:"reporters,omitempty"`
	// Replaced are fault domains that alone spoke against it while others could try.
	Replaced []string `json:"replaced,omitempty"`
}

// Guard is a check that a verdict had to pass, or something that holds one back.
type Guard struct {
	// Name is one of the checks, in the order in which they are asked: "evidence",
	// "leave_one_out", "poll", "group", "small_group", "zones", "gather", "cap",
	// "shadow"; or what keeps evidence from being heard: "mute", "contradiction",
	// "shut".
	Name   string `json:"name"`
	Pass   bool   `json:"pass"`
	Detail string `json:"detail,omitempty"`
	Age    Span   `json:"age,omitempty"` // how long ago it was asked; 0: now, or with the verdict
}

// Witness is a reporter whose newest news of an endpoint is bad.
type Witness struct {
	Reporter string `json:"reporter"`
	Domain   string `json:"domain"`
	Zone     string `json:"zone,omitempty"`
	Kind     string `json:"kind"` // "traffic", "probe", "overdue" or "own"
	Level    string `json:"level"`
	Age      Span   `json:"age"`
}

// ProbeAnswer is how an ordered probe ended.
type ProbeAnswer struct {
	Reporter string `json:"reporter"`
	Client   string `json:"client,omitempty"` // what the reporter is, by its label; empty: a sidecar
	Zone     string `json:"zone,omitempty"`
	Level    string `json:"level"`
	Result   string `json:"result"` // "waiting" until it is answered
	Took     Span   `json:"took,omitempty"`
	// Age is for how long it has been answered, as that of a witness; 0: it is not known.
	Age Span `json:"age,omitempty"`
}

// EndpointStatus is one line of a status table.
type EndpointStatus struct {
	Instance  string        `json:"instance"`
	Zone      string        `json:"zone,omitempty"`
	State     outlier.State `json:"state"`
	Rule      outlier.Rule  `json:"rule"`
	Epoch     uint64        `json:"epoch"`
	N         int           `json:"n"`
	Since     Span          `json:"since"` // in this state for so long
	Rate      float64       `json:"rate"`
	Away      Span          `json:"away,omitempty"` // out for so long, through all states
	Recent    Recent        `json:"recent"`
	ErrorRate float64       `json:"error_rate"`       // of some hundred attempts up to eleven seconds ago, while it was in
	Measured  bool          `json:"measured"`         // false: most of ErrorRate is what is assumed of a new endpoint
	Avoiders  int           `json:"avoiders"`         // reporters that have taken it out by themselves
	Weight    float64       `json:"weight,omitempty"` // part of its share that it gets for being slow; 0: all
	T         float64       `json:"t"`
	Threshold float64       `json:"threshold"`
	Suspected bool          `json:"suspected,omitempty"`
	Idle      bool          `json:"idle,omitempty"`
	Zones     []ZoneStatus  `json:"zones,omitempty"` // verdicts for single zones of observers
	Override  *Override     `json:"override,omitempty"`
}

// ZoneStatus is a verdict that holds for one zone of observers.
type ZoneStatus struct {
	Zone  string        `json:"zone"`
	State outlier.State `json:"state"`
	Rule  outlier.Rule  `json:"rule"`
	Since Span          `json:"since"`
}

// ServiceStatus is a service and its endpoints, by instance.
type ServiceStatus struct {
	Service   string           `json:"service"`
	Reporters int              `json:"reporters"` // fresh ones that use it
	Pg        float64          `json:"p_g"`       // of the first priority
	Measured  bool             `json:"measured"`  // false: most of Pg is what is assumed at first
	Endpoints []EndpointStatus `json:"endpoints"`
}

// ReporterStatus is what the table knows of a reporter.
type ReporterStatus struct {
	Reporter
	Domain   string             `json:"domain"`
	Live     bool               `json:"live"`
	Heard    Span               `json:"heard"` // ago
	Jitter   Span               `json:"jitter"`
	Muted    bool               `json:"muted,omitempty"`
	Reason   string             `json:"reason,omitempty"`
	Accepted uint64             `json:"accepted"`
	Refused  map[Refusal]uint64 `json:"refused,omitempty"`
}
