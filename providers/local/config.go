package local

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/nightshift-batch/nightshift/providers"
)

// Config is what the provider lends and how. Its JSON form is what a plugin gets.
type Config struct {
	// Dir is the provider's own directory; it is made if it is not there. Two providers cannot use it at the same time.
	Dir string `json:"dir"`
	// AgentCommand is the agent's executable (looked up in PATH) and its first arguments. Each instance runs it as
	//
	//	AgentCommand... --control-plane ADDR --ca-file FILE --token-file FILE --instance-id ID --state-dir DIR --lifeline-fd 3 --hold-fd 4
	//
	// or, with StartAhead, --control-plane-from FILE in the place of the first of them: a FIFO whose first line is the address;
	// in a session of its own, with this process' environment. At the end of file of descriptor 3 it must kill its pods and
	// end; descriptor 4 it must keep open as long as anything of the instance lives; SIGTERM asks it to end in order.
	AgentCommand []string `json:"agentCommand"`
	// Env are variables, NAME=value, that agents get beside this process' environment.
	Env []string `json:"env,omitempty"`
	// Types are the instance types, at least one.
	Types []Type `json:"types"`
	// StartAhead starts the agent of one instance before it is asked for: it joins sooner, and waits for that in memory until then.
	StartAhead bool `json:"startAhead,omitempty"`
	// TerminateGraceSeconds is how long an agent may take to end after SIGTERM. 0 means 5.
	TerminateGraceSeconds float64 `json:"terminateGraceSeconds,omitempty"`
}

// Type is an instance type: a shape, two prices, and how many there are.
type Type struct {
	// Name consists of lower-case letters, digits, dots and dashes.
	Name        string `json:"name"`
	CPUMillis   int64  `json:"cpuMillis"`
	MemoryBytes int64  `json:"memoryBytes"`
	// PriceMicrosPerHour is the spot price, micro-dollars an hour.
	PriceMicrosPerHour         int64 `json:"priceMicrosPerHour"`
	OnDemandPriceMicrosPerHour int64 `json:"onDemandPriceMicrosPerHour"`
	// BootSeconds is how long an instance is pending before its agent starts.
	BootSeconds float64 `json:"bootSeconds,omitempty"`
	// Max is how many instances of the type there can be at the same time, spot and on demand together.
	Max int `json:"max"`
	// Extended are further resources by Kubernetes' name, as "nvidia.com/gpu" or "ephemeral-storage".
	Extended map[string]int64 `json:"extended,omitempty"`
}

const defaultTerminateGraceSeconds = 5

// Open makes a provider from a Config in JSON. A field that Config does not have is an error.
func Open(config []byte, logger *slog.Logger) (providers.Provider, error) {
	decoder := json.NewDecoder(bytes.NewReader(config))
	decoder.DisallowUnknownFields()
	var decoded Config
	err := decoder.Decode(&decoded)
	if errors.Is(err, io.EOF) {
		err = errors.New("it is empty")
	}
	if err == nil && decoder.More() {
		err = errors.New("something follows the JSON object")
	}
	if err != nil {
		return nil, fail("open", providers.KindBadConfig, fmt.Errorf("configuration of the local provider: %w", err))
	}
	p, err := New(decoded, logger)
	if err != nil {
		return nil, err
	}
	return p, nil
}

var typeName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$`)

// checked returns the configuration with its defaults, and the path of the agent's executable.
func (c Config) checked() (Config, string, error) {
	if c.Dir == "" {
		return c, "", errors.New("dir is missing")
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return c, "", fmt.Errorf("dir: %w", err)
	}
	c.Dir = dir
	if len(c.AgentCommand) == 0 {
		return c, "", errors.New("agentCommand is missing")
	}
	agent, err := exec.LookPath(c.AgentCommand[0])
	if err != nil {
		return c, "", fmt.Errorf("agentCommand: %w", err)
	}
	if agent, err = filepath.Abs(agent); err != nil {
		return c, "", fmt.Errorf("agentCommand: %w", err)
	}
	if c.TerminateGraceSeconds < 0 {
		return c, "", fmt.Errorf("terminateGraceSeconds is %v", c.TerminateGraceSeconds)
	}
	if c.TerminateGraceSeconds == 0 {
		c.TerminateGraceSeconds = defaultTerminateGraceSeconds
	}
	if len(c.Types) == 0 {
		return c, "", errors.New("types is empty: there is nothing to lend")
	}
	var names []string
	for i, t := range c.Types {
		if err := t.check(); err != nil {
			return c, "", fmt.Errorf("types[%d] %q: %w", i, t.Name, err)
		}
		if slices.Contains(names, t.Name) {
			return c, "", fmt.Errorf("types[%d] %q: there is another type of that name", i, t.Name)
		}
		names = append(names, t.Name)
	}
	return c, agent, nil
}

func (t Type) check() error {
	if !typeName.MatchString(t.Name) {
		return errors.New("name must consist of lower-case letters, digits, dots and dashes")
	}
	for _, amount := range []struct {
		name  string
		value int64
	}{
		{"cpuMillis", t.CPUMillis}, {"memoryBytes", t.MemoryBytes}, {"priceMicrosPerHour", t.PriceMicrosPerHour},
		{"onDemandPriceMicrosPerHour", t.OnDemandPriceMicrosPerHour}, {"max", int64(t.Max)},
	} {
		if amount.value <= 0 {
			return fmt.Errorf("%s is %d, it must be more than 0", amount.name, amount.value)
		}
	}
	if t.BootSeconds < 0 {
		return fmt.Errorf("bootSeconds is %v", t.BootSeconds)
	}
	for name, amount := range t.Extended {
		if name == "" || name == "cpu" || name == "memory" || name == "pods" {
			return fmt.Errorf("extended: %q is no further resource", name)
		}
		if amount <= 0 {
			return fmt.Errorf("extended: %s is %d, it must be more than 0", name, amount)
		}
	}
	return nil
}

// seconds turns a number of seconds into a duration.
func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
