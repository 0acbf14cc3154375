package plugin_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nightshift-batch/nightshift/providers"
	"github.com/nightshift-batch/nightshift/providers/plugin"
)

const (
	rolePlugin = "role-plugin"
	roleChatty = "role-chatty"
	patience   = 15 * time.Second
)

// TestMain makes the test binary the plugin too, told apart by its first argument.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == rolePlugin {
		if err := plugin.Serve(openScripted); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) > 1 && os.Args[1] == roleChatty {
		fmt.Println("hello, I am no provider")
		fmt.Fprintln(os.Stderr, "panic: out of ideas")
		os.Exit(7)
	}
	os.Exit(m.Run())
}

// script is the configuration of the plugin's provider.
type script struct {
	// OpenError makes open fail with a plain error, OpenKind with one of that kind.
	OpenError string
	OpenKind  providers.ErrorKind
	// Interrupts makes it a providers.Interrupter.
	Interrupts bool
	// Offers is how many it has.
	Offers int
	// ClosedFile is written when it is closed; HangInClose makes close wait for ever.
	ClosedFile  string
	HangInClose bool
	// EnvironmentFile receives the process' environment as the provider's children would inherit it.
	EnvironmentFile string
}

// scripted is a provider that does what the key or the first id of a call says.
type scripted struct {
	script script
	logger *slog.Logger
}

func openScripted(config []byte, logger *slog.Logger) (providers.Provider, error) {
	var s script
	if err := json.Unmarshal(config, &s); err != nil {
		return nil, err
	}
	if s.OpenError != "" {
		if s.OpenKind != "" {
			return nil, &providers.Error{Kind: s.OpenKind, Op: "open", Err: errors.New(s.OpenError)}
		}
		return nil, errors.New(s.OpenError)
	}
	if s.EnvironmentFile != "" {
		if err := os.WriteFile(s.EnvironmentFile, []byte(strings.Join(os.Environ(), "\n")), 0o600); err != nil {
			return nil, err
		}
	}
	logger.Info("opened", "offers", s.Offers)
	p := &scripted{script: s, logger: logger}
	if s.Interrupts {
		return &interrupting{p}, nil
	}
	return p, nil
}

type interrupting struct{ *scripted }

func (p *interrupting) Interrupt(_ context.Context, id string, notice time.Duration) error {
	return errors.New(id + " in " + notice.String())
}

func (p *scripted) Close() error {
	if p.script.HangInClose {
		select {}
	}
	if p.script.ClosedFile != "" {
		return os.WriteFile(p.script.ClosedFile, nil, 0o600)
	}
	return nil
}

func (p *scripted) Offers(context.Context) ([]providers.Offer, error) {
	var offers []providers.Offer
	for n := range p.script.Offers {
		offers = append(offers, offer(n))
	}
	return offers, nil
}

func offer(n int) providers.Offer {
	return providers.Offer{
		ID: fmt.Sprint("offer-", n), InstanceType: "type", Zone: "zone", Market: providers.Spot, Arch: "arm64",
		Resources: providers.Resources{"cpu": int64(n), "example.com/gpu": 2}, PriceMicrosPerHour: 1, OnDemandPriceMicrosPerHour: 2,
		Available: -1, InterruptionsPerMillionHours: int64(n),
	}
}

// Launch fails with the kind that is the request's key, after one instance that tells what else arrived.
func (p *scripted) Launch(ctx context.Context, r providers.LaunchRequest) (providers.LaunchResult, error) {
	if r.Key == "wait" {
		<-ctx.Done()
		return providers.LaunchResult{}, ctx.Err()
	}
	told := fmt.Sprint(r.Owner, r.OfferIDs, r.Count, r.Bootstrap.Address, string(r.Bootstrap.CACertificate), r.Bootstrap.Token)
	result := providers.LaunchResult{Instances: []providers.Instance{{ID: told, Key: r.Key, OfferID: r.OfferIDs[0], State: providers.Pending}}}
	if r.Key == "fine" {
		return result, nil
	}
	return result, &providers.Error{Kind: providers.ErrorKind(r.Key), Op: "launch", Err: errors.New("as asked")}
}

// Terminate fails with the kind that is the first id, or ends the process, or prints.
func (p *scripted) Terminate(_ context.Context, instanceIDs []string) error {
	switch instanceIDs[0] {
	case "panic":
		go panic("as asked")
		select {}
	case "print":
		fmt.Println("printed by the provider")
		p.logger.Warn("logged by the provider", "answer", 42)
		return nil
	case "plain":
		return errors.New("a plain error")
	case "long":
		return &providers.Error{Kind: providers.KindQuota, Op: "terminate", Err: errors.New(strings.Repeat("ä", 1<<20))}
	case "wrapped":
		return fmt.Errorf("while at work: %w", &providers.Error{Kind: providers.KindQuota, Op: "inner", Err: errors.New("as asked")})
	}
	return &providers.Error{Kind: providers.ErrorKind(instanceIDs[0]), Op: "terminate", Err: errors.New("as asked")}
}

func (p *scripted) List(context.Context, string) ([]providers.Instance, error) { return nil, nil }

// Watch tells two events and ends as the owner says.
func (p *scripted) Watch(ctx context.Context, owner string, sink func(providers.Event)) error {
	sink(providers.Event{Kind: providers.InstanceRunning, InstanceID: "a"})
	sink(providers.Event{Kind: providers.InterruptionNotice, InstanceID: "a", Deadline: time.Unix(1_700_000_000, 5).UTC(), Cause: "storm"})
	switch owner {
	case "ends":
		return nil
	case "fails":
		return &providers.Error{Kind: providers.KindUnauthorized, Op: "watch", Err: errors.New("as asked")}
	}
	<-ctx.Done()
	return ctx.Err()
}

func open(t testing.TB, s script) *plugin.Client {
	t.Helper()
	client, err := plugin.Open(t.Context(), config(t, s))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return client
}

func config(t testing.TB, s script) plugin.Config {
	t.Helper()
	encoded, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return plugin.Config{Name: "scripted", Command: []string{self, rolePlugin}, Config: encoded, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
}

func wantError(t testing.TB, err error, kind providers.ErrorKind, op, words string) {
	t.Helper()
	var typed *providers.Error
	if !errors.As(err, &typed) {
		t.Fatalf("error %v (%T) is no *providers.Error", err, err)
	}
	if typed.Kind != kind || typed.Op != op || !strings.Contains(typed.Err.Error(), words) {
		t.Errorf("error %#v (%v), want kind %s, operation %s and the words %q", typed, err, kind, op, words)
	}
}

func TestTheContractCrossesTheWireWithoutLoss(t *testing.T) {
	const many = 2500 // more than one message
	client := open(t, script{Offers: many})
	t.Run("offers", func(t *testing.T) {
		offers, err := client.Offers(t.Context())
		if err != nil || len(offers) != many {
			t.Fatalf("%d offers, %v", len(offers), err)
		}
		for n, got := range offers {
			if want := offer(n); fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
				t.Fatalf("offer %+v, want %+v", got, want)
			}
		}
	})
	request := providers.LaunchRequest{Key: "fine", Owner: "o", OfferIDs: []string{"x", "y"}, Count: 3, Bootstrap: providers.Bootstrap{Address: "a", CACertificate: []byte{'c'}, Token: "t"}}
	want := providers.Instance{ID: "o[x y]3 a c t", Key: "fine", OfferID: "x", State: providers.Pending}
	want.ID = fmt.Sprint(request.Owner, request.OfferIDs, request.Count, request.Bootstrap.Address, "c", request.Bootstrap.Token)
	t.Run("launch", func(t *testing.T) {
		result, err := client.Launch(t.Context(), request)
		if err != nil || !slices.Equal(result.Instances, []providers.Instance{want}) {
			t.Errorf("launch brought %+v, %v", result, err)
		}
	})
	kinds := []providers.ErrorKind{
		providers.KindNoCapacity, providers.KindQuota, providers.KindThrottled, providers.KindUnauthorized,
		providers.KindBadConfig, providers.KindBadRequest, providers.KindTransient, "a-kind-of-the-future",
	}
	for _, kind := range kinds {
		t.Run("error "+string(kind), func(t *testing.T) {
			wantError(t, client.Terminate(t.Context(), []string{string(kind)}), kind, "terminate", "as asked")
			request := request
			request.Key = string(kind)
			result, err := client.Launch(t.Context(), request)
			wantError(t, err, kind, "launch", "as asked")
			if len(result.Instances) != 1 {
				t.Errorf("the instances beside the error are lost: %+v", result)
			}
		})
	}
	t.Run("other errors", func(t *testing.T) {
		wantError(t, client.Terminate(t.Context(), []string{"plain"}), providers.KindTransient, "terminate", "a plain error")
		wantError(t, client.Terminate(t.Context(), []string{"wrapped"}), providers.KindQuota, "inner", "while at work")
		wantError(t, client.Terminate(t.Context(), []string{"long"}), providers.KindQuota, "terminate", "ä [cut]")
	})
	t.Run("watch", func(t *testing.T) {
		var got []providers.Event
		err := client.Watch(t.Context(), "fails", func(event providers.Event) { got = append(got, event) })
		wantError(t, err, providers.KindUnauthorized, "watch", "as asked")
		want := []providers.Event{
			{Kind: providers.InstanceRunning, InstanceID: "a"},
			{Kind: providers.InterruptionNotice, InstanceID: "a", Deadline: time.Unix(1_700_000_000, 5).UTC(), Cause: "storm"},
		}
		if !slices.Equal(got, want) {
			t.Errorf("told %+v, want %+v", got, want)
		}
		wantError(t, client.Watch(t.Context(), "ends", func(providers.Event) {}), providers.KindTransient, "watch", "ended the watch without an error")
	})
	t.Run("contexts", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		request.Key = "wait"
		_, err := client.Launch(ctx, request)
		wantError(t, err, providers.KindTransient, "launch", context.DeadlineExceeded.Error())
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v is not the context's error", err)
		}
	})
	if _, ok := client.Interrupter(); ok {
		t.Error("a provider that cannot interrupt is told to be able to")
	}
}

func TestAnInterrupterIsAnnounced(t *testing.T) {
	interrupter, ok := open(t, script{Interrupts: true}).Interrupter()
	if !ok {
		t.Fatal("the ability is not announced")
	}
	wantError(t, interrupter.Interrupt(t.Context(), "i", time.Minute), providers.KindTransient, "interrupt", "i in 1m0s")
}

func TestACrashOfThePluginIsATransientErrorOfEveryCall(t *testing.T) {
	var log logged
	c := config(t, script{})
	c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	client, err := plugin.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	opened := make(chan struct{})
	watch := make(chan error, 1)
	go func() {
		var once sync.Once
		watch <- client.Watch(t.Context(), "o", func(providers.Event) { once.Do(func() { close(opened) }) })
	}()
	<-opened
	wantError(t, client.Terminate(t.Context(), []string{"panic"}), providers.KindTransient, "terminate", "")
	wantError(t, <-watch, providers.KindTransient, "watch", "")
	select {
	case <-client.Exited():
	case <-time.After(patience):
		t.Fatal("the end of the process is not told")
	}
	_, err = client.Offers(t.Context())
	wantError(t, err, providers.KindTransient, "offers", `provider "scripted": its process has ended: exit status 2`)
	_, err = client.List(t.Context(), "o")
	wantError(t, err, providers.KindTransient, "list", "has ended")
	if err := client.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if got := log.String(); !strings.Contains(got, `level=ERROR msg="panic: as asked`) || !strings.Contains(got, `msg="plugin ended by itself"`) {
		t.Errorf("the host's log does not tell the crash: %s", got)
	}
}

// logged is a log that a test reads.
type logged struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (l *logged) Write(data []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.Write(data)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.String()
}

func TestWhatThePluginLogsAndPrintsReachesTheHostsLog(t *testing.T) {
	var log logged
	c := config(t, script{})
	c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	client, err := plugin.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Terminate(t.Context(), []string{"print"}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`level=INFO msg=opened provider=scripted offers=0`, `level=WARN msg="logged by the provider" provider=scripted answer=42`,
		`level=WARN msg="printed by the provider" provider=scripted stream=stdout`,
	} {
		eventually(t, "the log has "+want, func() bool { return strings.Contains(log.String(), want) })
	}
	if err := client.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func TestOpenTellsInWordsWhyThereIsNoProvider(t *testing.T) {
	directory := t.TempDir()
	spoilt := func(spoil func(*plugin.Config)) plugin.Config {
		c := config(t, script{})
		spoil(&c)
		return c
	}
	for _, test := range []struct {
		name   string
		config plugin.Config
		kind   providers.ErrorKind
		words  string
	}{
		{"the provider refuses the configuration", config(t, script{OpenError: "region \"mars\" does not exist"}), providers.KindBadConfig, `region "mars" does not exist`},
		{"the provider names another kind", config(t, script{OpenError: "no credentials", OpenKind: providers.KindUnauthorized}), providers.KindUnauthorized, "no credentials"},
		{"the configuration is no JSON", spoilt(func(c *plugin.Config) { c.Config = []byte("region: mars") }), providers.KindBadConfig, `provider "scripted": the configuration is no JSON`},
		{"the configuration is too large", spoilt(func(c *plugin.Config) { c.Config = bytes.Repeat([]byte(" "), 200_000) }), providers.KindBadConfig, "the configuration has 200000 bytes, at most 122880 are possible"},
		{"there is no command", spoilt(func(c *plugin.Config) { c.Command = nil }), providers.KindBadConfig, "no command"},
		{"the command is not there", spoilt(func(c *plugin.Config) { c.Command = []string{"no-such-provider"} }), providers.KindBadConfig, `"no-such-provider": executable file not found`},
		{"the command cannot be run", spoilt(func(c *plugin.Config) {
			path := filepath.Join(directory, "text")
			if err := os.WriteFile(path, []byte("text"), 0o700); err != nil {
				t.Fatal(err)
			}
			c.Command = []string{path}
		}), providers.KindBadConfig, "text: exec format error"},
		{"the command is something else", spoilt(func(c *plugin.Config) { c.Command = []string{"true"} }), providers.KindBadConfig, "true does not answer as a provider"},
		{"the command is something else that talks", spoilt(func(c *plugin.Config) { c.Command[1] = roleChatty }), providers.KindBadConfig, "(Unrecognized remote plugin message: hello, I am no provider, exit status 7); panic: out of ideas"},
		{"the checksum is another", spoilt(func(c *plugin.Config) { c.Checksum = make([]byte, sha256.Size) }), providers.KindBadConfig, "has the SHA-256 "},
	} {
		t.Run(test.name, func(t *testing.T) {
			client, err := plugin.Open(t.Context(), test.config)
			if err == nil {
				t.Fatal(errors.Join(errors.New("it opened"), client.Close()))
			}
			wantError(t, err, test.kind, "open", test.words)
		})
	}
	t.Run("the context has ended", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := plugin.Open(ctx, config(t, script{}))
		wantError(t, err, providers.KindTransient, "open", context.Canceled.Error())
	})
}

func TestTheExecutableWithTheRightChecksumOpens(t *testing.T) {
	c := config(t, script{})
	data, err := os.ReadFile(c.Command[0])
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	c.Checksum = sum[:]
	client, err := plugin.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
}

func TestCloseClosesTheProviderAndLeavesNothingBehind(t *testing.T) {
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	closed, environment := filepath.Join(t.TempDir(), "closed"), filepath.Join(t.TempDir(), "environment")
	client := open(t, script{ClosedFile: closed, EnvironmentFile: environment})
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(closed); err != nil {
		t.Errorf("the provider was not closed: %v", err)
	}
	left, err := os.ReadDir(temporary)
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	data, err := os.ReadFile(environment)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, "PLUGIN_") || strings.HasPrefix(line, "NIGHTSHIFT_PROVIDER_") {
			t.Errorf("children of the provider would inherit %s", line)
		}
	}
}

func TestSIGTERMClosesTheProvider(t *testing.T) {
	closed := filepath.Join(t.TempDir(), "closed")
	client := open(t, script{ClosedFile: closed})
	if err := syscall.Kill(childWith(t, closed), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-client.Exited():
	case <-time.After(patience):
		t.Fatal("the plugin does not end on SIGTERM")
	}
	if _, err := os.Stat(closed); err != nil {
		t.Errorf("the provider was not closed: %v", err)
	}
}

func TestAProviderThatHangsInCloseIsGivenUp(t *testing.T) {
	client := open(t, script{HangInClose: true})
	begin := time.Now()
	if err := client.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if took := time.Since(begin); took > 6*time.Second {
		t.Errorf("close took %v", took)
	}
	select {
	case <-client.Exited():
	default:
		t.Error("close returned and the process runs")
	}
}

func TestServeInAProcessThatNoHostStartedSaysSo(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(self, rolePlugin).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "it is started by nightshift and by nobody else") {
		t.Errorf("%v: %s", err, out)
	}
}

// childWith finds the plugin whose configuration, in its environment, has a word.
func childWith(t testing.TB, word string) int {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(data, []byte(word)) {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(path, "/proc/%d/environ", &pid); err == nil {
			return pid
		}
	}
	t.Fatalf("no process has %s in its environment", word)
	return 0
}

func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(patience)
	for !condition() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}
