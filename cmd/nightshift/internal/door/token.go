package door

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/nightshift-batch/nightshift/orchestrator/kubeapi/access"
)

const tokenExample = `  # Let alice in as a tenant of the namespace team-a; the token is printed once
  nightshift token new --user alice --namespace team-a --tokens-file /etc/nightshift/tokens
  nightshift serve --tokens-file /etc/nightshift/tokens

  # What alice does with it
  kubectl config set-credentials alice --token "$TOKEN"`

// KeepError says that a token was made, and could not be kept or told.
type KeepError struct{ err error }

func (e *KeepError) Error() string { return e.err.Error() }

func (e *KeepError) Unwrap() error { return e.err }

// TokenCommand is nightshift token. Its errors are the user's, but for *KeepError.
func TokenCommand() *cobra.Command {
	command := &cobra.Command{Use: "token", Short: "Make tokens by which serve knows who asks", Args: cobra.NoArgs}
	command.AddCommand(newToken())
	return command
}

func newToken() *cobra.Command {
	var template access.Token
	var file string
	var validFor time.Duration
	command := &cobra.Command{
		Use:   "new --user USER",
		Short: "Make a token, and the line of the tokens file that stands for it",
		Long: "Make a token and print it to standard output, once: it is kept nowhere. Its line, which holds a digest of it and for whom it stands,\n" +
			"is appended to the tokens file, or shown on standard error. A serve that reads the file knows the token from then on; take the line out\n" +
			"and it is known no more.\n\n" +
			"A tenant of a namespace may do everything in it, and read nodes. The group system:masters makes an administrator.",
		Example: tokenExample,
		Args:    cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if validFor < 0 || (validFor == 0 && command.Flags().Changed("valid-for")) {
				return fmt.Errorf("--valid-for %s: it must be positive", validFor)
			}
			if validFor > 0 {
				template.Expires = new(time.Now().Add(validFor).UTC().Truncate(time.Second))
			}
			return makeToken(template, file, command.OutOrStdout(), command.ErrOrStderr())
		},
	}
	flags := command.Flags()
	flags.StringVar(&template.User, "user", "", "user for whom the token stands")
	flags.StringVar(&template.UID, "uid", "", "UID of the user, as it appears in the audit log")
	flags.StringArrayVar(&template.Groups, "group", nil, "group of the user; may be repeated")
	flags.StringArrayVar(&template.Namespaces, "namespace", nil, "namespace in which the user is a tenant; may be repeated")
	flags.DurationVar(&validFor, "valid-for", 0, "how long the token is good (default: until its line is taken out)")
	flags.StringVar(&file, "tokens-file", "", "append the line to this file, which is made if it is not there")
	return command
}

func makeToken(template access.Token, file string, stdout, stderr io.Writer) error {
	secret, line, err := access.NewToken(template)
	if err != nil {
		return err
	}
	if file != "" {
		err = access.AppendToken(file, line)
	} else {
		var text []byte
		if text, err = line.Line(); err == nil {
			_, err = fmt.Fprintf(stderr, "nightshift: the line for the file of serve --tokens-file:\n%s", text)
		}
	}
	if err != nil {
		return &KeepError{fmt.Errorf("keep the token's line: %w", err)}
	}
	if _, err := fmt.Fprintln(stdout, secret); err != nil {
		return &KeepError{fmt.Errorf("the token could not be printed, take its line out again: %w", err)}
	}
	return nil
}
