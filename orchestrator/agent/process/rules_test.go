package process

import (
	"testing"
	"time"
)

func TestReferencesExpandAsInKubernetes(t *testing.T) {
	values := map[string]string{"A": "a", "EMPTY": "", "REF": "$(A)", "": "nameless"}
	lookup := func(name string) (string, bool) { v, ok := values[name]; return v, ok }
	for text, want := range map[string]string{
		"":                    "",
		"$(A)":                "a",
		"x$(A)y$(A)":          "xaya",
		"[$(EMPTY)]":          "[]",
		"$(REF)":              "$(A)",
		"$(NONE)":             "$(NONE)",
		"$()":                 "nameless",
		"$$(A)":               "$(A)",
		"$$$(A)":              "$a",
		"$$$$(A)":             "$$(A)",
		"$A ${A} $? $":        "$A ${A} $? $",
		"$$A":                 "$A",
		"$(A":                 "$(A",
		"$(A$$b":              "$(A$b",
		"$(NONE$(A))":         "$(NONE$(A))",
		"$($(A)":              "$($(A)",
		`\$(A)`:               `\a`,
		"$x$(A)":              "$xa",
		"$(A)\n$(A":           "a\n$(A",
		"tail $(":             "tail $(",
		"$(a$$b) is one name": "$(a$$b) is one name",
	} {
		if got := expand(text, lookup); got != want {
			t.Errorf("expand(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestRestartsWaitAsTheKubeletsDo(t *testing.T) {
	d := delays{Backoff: KubeletBackoff()}
	short := time.Second
	for i, want := range []time.Duration{0, 10, 20, 40, 80, 160, 300, 300} {
		if got := d.after(short); got != want*time.Second {
			t.Errorf("restart %d waits %v, want %v", i+1, got, want*time.Second)
		}
	}
	if got := d.after(10*time.Minute + 1); got != 0 {
		t.Errorf("the restart after a long run waits %v, want none", got)
	}
	if got := d.after(10 * time.Minute); got != 10*time.Second {
		t.Errorf("the restart after that waits %v, want 10s", got)
	}
}
