package aws_test

import (
	"bytes"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strconv"
	"sync"
	"testing"
)

// plenty is a capacity without a bound.
const plenty = -1

// cloud stands in front of moto on the wire (EC2's form-encoded Query protocol) and does what moto leaves out: it remembers the client
// tokens of CreateFleet as EC2's page on idempotency says, has a bounded capacity, and fails on request.
type cloud struct {
	*httptest.Server
	t    testing.TB
	moto *motoServer

	mu sync.Mutex
	// capacity is how many instances of this cloud may live at the same time, spotCapacity how many of those may be spot.
	capacity, spotCapacity int
	// short is the error code of a fleet's shortfall.
	short    string
	launched []string
	fleets   map[string]remembered
	calls    map[string][]url.Values
	refusals map[string][]refusal
	// rewrites change moto's answers, by action; one is called at a time.
	rewrites map[string]func(body []byte) []byte
	// lose is how many CreateFleet answers get lost on their way back.
	lose int
}

// remembered is what a client token stands for.
type remembered struct{ parameters, answer string }

// refusal is an error answer.
type refusal struct {
	status int
	code   string
}

func newCloud(t testing.TB, capacity int) *cloud {
	t.Helper()
	c := &cloud{t: t, moto: moto(t), capacity: capacity, spotCapacity: plenty, short: "InsufficientInstanceCapacity", fleets: map[string]remembered{},
		calls: map[string][]url.Values{}, refusals: map[string][]refusal{}, rewrites: map[string]func([]byte) []byte{}}
	c.Server = httptest.NewServer(c)
	t.Cleanup(c.Close)
	return c
}

// locked changes the cloud between calls.
func (c *cloud) locked(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

// forget ends the memory of client tokens, as time does.
func (c *cloud) forget() { c.locked(func() { c.fleets = map[string]remembered{} }) }

// hide keeps the instances from the next calls of DescribeInstances, as EC2 may for a while after a launch.
func (c *cloud) hide(calls int) {
	c.locked(func() {
		c.rewrites["DescribeInstances"] = func(body []byte) []byte {
			if calls--; calls < 0 {
				return body
			}
			return []byte(`<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><reservationSet/></DescribeInstancesResponse>`)
		}
	})
}

// count is how often an action was called.
func (c *cloud) count(action string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.calls[action])
}

// last is the newest call of an action.
func (c *cloud) last(action string) url.Values {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	calls := c.calls[action]
	if len(calls) == 0 {
		c.t.Fatalf("%s was not called", action)
	}
	return calls[len(calls)-1]
}

func (c *cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the caller went away
	}
	form, err := url.ParseQuery(string(body))
	if err != nil || form.Get("Action") == "" {
		c.t.Errorf("%s %s is no call of the Query protocol: %q", r.Method, r.URL, body)
		http.Error(w, "no Query call", http.StatusBadRequest)
		return
	}
	action := form.Get("Action")
	c.mu.Lock()
	c.calls[action] = append(c.calls[action], form)
	if queue := c.refusals[action]; len(queue) > 0 {
		c.refusals[action] = queue[1:]
		c.mu.Unlock()
		refuse(w, queue[0])
		return
	}
	c.mu.Unlock()
	if action == "CreateFleet" {
		c.createFleet(w, r, form)
		return
	}
	status, answer := c.forward(r, form)
	c.locked(func() {
		if rewrite := c.rewrites[action]; rewrite != nil {
			answer = rewrite(answer)
		}
	})
	reply(w, status, answer)
}

// createFleet keeps EC2's promises about client tokens
// (https://docs.aws.amazon.com/AWSEC2/latest/APIReference/Run_Instance_Idempotency.html) and capacity. Calls come one after another.
func (c *cloud) createFleet(w http.ResponseWriter, r *http.Request, form url.Values) {
	c.mu.Lock()
	defer c.mu.Unlock()
	token, parameters := form.Get("ClientToken"), form.Encode()
	if token == "" {
		c.t.Error("CreateFleet without a client token")
	}
	known, seen := c.fleets[token]
	switch {
	case seen && known.parameters != parameters:
		refuse(w, refusal{http.StatusBadRequest, "IdempotentParameterMismatch"})
		return
	case !seen:
		status, answer := c.launch(r, form)
		if status != http.StatusOK {
			reply(w, status, answer)
			return
		}
		known = remembered{parameters, string(answer)}
		c.fleets[token] = known
	}
	if c.lose > 0 {
		c.lose--
		panic(http.ErrAbortHandler) // the connection breaks, the fleet stands
	}
	reply(w, http.StatusOK, []byte(known.answer))
}

var instanceID = regexp.MustCompile(`i-[0-9a-f]{17}`)

// launch lets moto launch as many as there is capacity for and tells of the rest.
func (c *cloud) launch(r *http.Request, form url.Values) (int, []byte) {
	const total = "TargetCapacitySpecification.TotalTargetCapacity"
	wanted, err := strconv.Atoi(form.Get(total))
	if err != nil {
		c.t.Errorf("%s: %v", total, err)
		return http.StatusBadRequest, nil
	}
	alive, aliveSpot := c.alive()
	granted := within(wanted, c.capacity, alive)
	if form.Get("TargetCapacitySpecification.DefaultTargetCapacityType") == "spot" {
		granted = within(granted, c.spotCapacity, aliveSpot)
	}
	answer := []byte(`<CreateFleetResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><fleetId>fleet-none</fleetId></CreateFleetResponse>`)
	if granted > 0 {
		form.Set(total, strconv.Itoa(granted))
		var status int
		if status, answer = c.forward(r, form); status != http.StatusOK {
			return status, answer
		}
		launched := map[string]bool{}
		for _, id := range instanceID.FindAllString(string(answer), -1) {
			launched[id] = true
		}
		if len(launched) != granted {
			c.t.Errorf("moto launched %d of %d: %s", len(launched), granted, answer)
		}
		for id := range launched {
			c.launched = append(c.launched, id)
		}
	}
	if granted < wanted {
		item := fmt.Sprintf("<errorSet><item><errorCode>%s</errorCode><errorMessage>as the test wants it</errorMessage></item></errorSet>", html.EscapeString(c.short))
		answer = bytes.Replace(answer, []byte("</CreateFleetResponse>"), []byte(item+"</CreateFleetResponse>"), 1)
	}
	return http.StatusOK, answer
}

// within is how many of those wanted fit into a capacity.
func within(wanted, capacity, used int) int {
	if capacity == plenty {
		return wanted
	}
	return min(wanted, max(0, capacity-used))
}

// alive counts the instances that this cloud has launched and that have not ended.
func (c *cloud) alive() (all, spot int) {
	for _, id := range c.launched {
		instance, ok := c.moto.instance(c.t, id)
		if !ok || instance.State.Name == "terminated" {
			continue
		}
		all++
		if instance.InstanceLifecycle == "spot" {
			spot++
		}
	}
	return all, spot
}

// forward sends a call to moto as it came, with the form given.
func (c *cloud) forward(r *http.Request, form url.Values) (int, []byte) {
	request, err := http.NewRequestWithContext(r.Context(), http.MethodPost, c.moto.url+r.URL.Path, bytes.NewReader([]byte(form.Encode())))
	if err != nil {
		c.t.Error(err)
		return http.StatusInternalServerError, nil
	}
	request.Header = r.Header.Clone()
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		if r.Context().Err() == nil {
			c.t.Errorf("moto: %v", err)
		}
		return http.StatusServiceUnavailable, nil
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil && r.Context().Err() == nil {
		c.t.Errorf("moto: %v", err)
	}
	return response.StatusCode, answer
}

func reply(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	w.WriteHeader(status)
	_, _ = w.Write(body) // a caller that went away
}

func refuse(w http.ResponseWriter, with refusal) {
	reply(w, with.status, fmt.Appendf(nil, `<?xml version="1.0" encoding="UTF-8"?><Response><Errors><Error><Code>%s</Code><Message>as the test wants it</Message></Error></Errors><RequestID>test</RequestID></Response>`, html.EscapeString(with.code)))
}
