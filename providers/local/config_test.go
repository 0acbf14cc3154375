package local_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/nightshift-batch/nightshift/providers"
	"github.com/nightshift-batch/nightshift/providers/local"
	"github.com/nightshift-batch/nightshift/providers/plugin"
)

func TestAConfigurationThatDoesNotFitIsRefusedInReadableWords(t *testing.T) {
	dir := t.TempDir()
	good := func(types string) string {
		return fmt.Sprintf(`{"dir":%q,"agentCommand":[%q],"types":[%s]}`, dir, executable(t), types)
	}
	const small = `{"name":"small","cpuMillis":1,"memoryBytes":1,"priceMicrosPerHour":1,"onDemandPriceMicrosPerHour":1,"max":1}`
	for _, test := range []struct{ name, config, want string }{
		{"empty", ``, `configuration of the local provider: it is empty`},
		{"of another shape", `[]`, `json: cannot unmarshal array`},
		{"with an unknown field", `{"dri":"/tmp"}`, `json: unknown field "dri"`},
		{"followed by another", good(small) + `{}`, `something follows the JSON object`},
		{"without dir", `{}`, `dir is missing`},
		{"without agent", fmt.Sprintf(`{"dir":%q}`, dir), `agentCommand is missing`},
		{"with an agent that is not there", fmt.Sprintf(`{"dir":%q,"agentCommand":["/no/such/agent"]}`, dir), `agentCommand: exec: "/no/such/agent": stat /no/such/agent: no such file or directory`},
		{"without types", good(``), `types is empty: there is nothing to lend`},
		{"with a strange name", good(`{"name":"a/b"}`), `types[0] "a/b": name must consist of`},
		{"with a price of nothing", good(`{"name":"a","cpuMillis":1,"memoryBytes":1}`), `types[0] "a": priceMicrosPerHour is 0, it must be more than 0`},
		{"with a name twice", good(small + `,` + small), `types[1] "small": there is another type of that name`},
		{"with a dir that cannot be", fmt.Sprintf(`{"dir":"/dev/null/dir","agentCommand":[%q],"types":[%s]}`, executable(t), small), `mkdir /dev/null: not a directory`},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := local.Open([]byte(test.config), testLogger(t))
			if err == nil {
				t.Fatalf("it was accepted: %v", p)
			}
			wantBadConfig(t, err, test.want)
		})
	}
	t.Run("through the plugin", func(t *testing.T) {
		_, err := plugin.Open(t.Context(), plugin.Config{
			Name: "here", Command: []string{executable(t), rolePlugin}, Config: []byte(`{"dri":"/tmp"}`), Logger: testLogger(t),
		})
		wantBadConfig(t, err, `configuration of the local provider: json: unknown field "dri"`)
	})
}

func wantBadConfig(t testing.TB, err error, want string) {
	t.Helper()
	var typed *providers.Error
	if !errors.As(err, &typed) || typed.Kind != providers.KindBadConfig || typed.Op != "open" {
		t.Fatalf("error %#v", err)
	}
	if !strings.Contains(err.Error(), want) {
		t.Errorf("error %q, want %q in it", err, want)
	}
}
