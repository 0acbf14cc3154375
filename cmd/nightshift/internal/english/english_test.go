package english_test

import (
	"testing"

	"k8s.io/kubectl/pkg/util/i18n"

	_ "github.com/nightshift-batch/nightshift/cmd/nightshift/internal/english"
)

func TestKubectlSpeaksEnglishInEveryLocale(t *testing.T) {
	t.Setenv("LC_ALL", "ja_JP.UTF-8")
	const words = "Create a TLS secret"
	if got := i18n.T(words); got != words {
		t.Errorf("kubectl says %q", got)
	}
	// What the test would see otherwise.
	if err := i18n.LoadTranslations("kubectl", func() string { return "ja_JP" }); err != nil {
		t.Fatal(err)
	}
	if got := i18n.T(words); got == words {
		t.Error("there is no Japanese for it: the test shows nothing")
	}
}
